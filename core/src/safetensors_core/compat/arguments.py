"""What the reference refuses before it looks at anything, in its words."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import EllipsisType
from typing import Any

from safetensors_core.compat.settings import is_strict
from safetensors_core.errors import InvalidInputError, SafetensorError
from safetensors_core.plugins import get_framework

__all__ = [
    "check_bytes",
    "check_metadata",
    "check_name",
    "check_opening",
    "check_path",
    "check_tensors",
    "checked_device",
    "not_an_instance",
]

_FRAMEWORKS = {
    **dict.fromkeys(("pt", "torch", "pytorch"), "torch"),
    **dict.fromkeys(("np", "numpy"), "numpy"),
    **dict.fromkeys(("tf", "tensorflow"), "tensorflow"),
    **dict.fromkeys(("jax", "flax"), "jax"),
    "paddle": "paddle",
    "mlx": "mlx",
}
_BACKENDS = ("mmap", "pread")
_ACCELERATORS = "cuda|mps|npu|xpu|xla|mlu|musa|hpu"
_DEVICE = re.compile(rf"cpu|({_ACCELERATORS})(:\d+)?")
_OTHER_DEVICE = re.compile(r"meta|cpu:\d+")  # what torch has and the reference does not know


def check_opening(
    filename: object, framework: object, device: Any, backend: object
) -> tuple[str, Any]:
    """Refuse what the reference refuses before it looks at a file, in its words.

    Args:
        filename: Path of a file.
        framework: Name of a framework.
        device: Where tensors shall live.
        backend: ``"mmap"`` or ``"pread"``.

    Returns:
        The framework's name among our plugins, and the device.

    Raises:
        SafetensorError: An argument is unknown.
        TypeError: An argument has another type.

    Example:
        >>> check_opening("model.safetensors", "np", ..., "mmap")
        ('numpy', 'cpu')
    """
    check_path(filename)
    name = _framework_name(framework)
    if not isinstance(backend, str):
        raise not_an_instance("backend", backend, "str")
    if backend not in _BACKENDS:
        raise SafetensorError(f'backend "{backend}" is invalid (expected one of: "mmap", "pread")')
    return name, checked_device(device, name)


def _framework_name(framework: object) -> str:
    """The name of a framework, also of one that only we have a plugin for."""
    if not isinstance(framework, str):
        raise not_an_instance("framework", framework, "str")
    if framework in _FRAMEWORKS:
        return _FRAMEWORKS[framework]
    try:
        if not is_strict():
            return get_framework(framework).name
    except SafetensorError as error:
        raise SafetensorError(f"framework {framework} is invalid") from error
    raise SafetensorError(f"framework {framework} is invalid")


def checked_device(device: Any, framework: str) -> Any:
    """Refuse a device that the reference does not know, with its words.

    Args:
        device: What a program gave; None and ``...`` are the CPU.
        framework: The framework's name among our plugins.

    Returns:
        The device.

    Raises:
        SafetensorError: It is unknown, or not one of the framework's.

    Example:
        >>> checked_device(0, "numpy")
        Traceback (most recent call last):
        safetensors_core.errors.SafetensorError: Device 0 is not supported for framework numpy
    """
    if device is None or isinstance(device, EllipsisType):
        return "cpu"
    text = str(device)
    if isinstance(device, int) and not isinstance(device, bool) and device >= 0:
        text = f"cuda:{device}"
    named = _DEVICE.fullmatch(text) is not None
    known = named and isinstance(device, (int, str))
    strict = is_strict()
    if framework == "torch":
        ours = not strict and (named or _OTHER_DEVICE.fullmatch(text) is not None)
        if not known and not ours:
            shown = device if isinstance(device, str) else repr(device)
            raise SafetensorError(f"device {shown} is invalid")
    elif strict or framework == "numpy":
        if not known:
            raise SafetensorError(f"device {device} is invalid")
        if text != "cpu":
            shown = f"{device}:0" if device == text and ":" not in text else str(device)
            raise SafetensorError(f"Device {shown} is not supported for framework {framework}")
    return device


def check_name(name: object) -> None:
    """Refuse what cannot be the name of a tensor, with the words of the reference.

    Args:
        name: What a program gave.

    Raises:
        TypeError: It is no string.

    Example:
        >>> check_name(None)
        Traceback (most recent call last):
        TypeError: argument 'name': 'None' is not an instance of 'str'
    """
    if not isinstance(name, str):
        raise not_an_instance("name", name, "str")


def check_bytes(data: object) -> None:
    """Refuse what is not bytes, with the words of the reference.

    Args:
        data: What a program gave.

    Raises:
        TypeError: It is not bytes.

    Example:
        >>> check_bytes("text")
        Traceback (most recent call last):
        TypeError: argument 'bytes': 'str' object is not an instance of 'bytes'
    """
    if not isinstance(data, bytes):
        raise not_an_instance("bytes", data, "bytes")


def check_path(filename: object) -> None:
    """Refuse what the reference does not take for a path, with its words.

    Args:
        filename: What a program gave.

    Raises:
        TypeError: It is neither str nor os.PathLike.

    Example:
        >>> check_path(3)
        Traceback (most recent call last):
        TypeError: argument 'filename': expected str, bytes or os.PathLike object, not int
    """
    if isinstance(filename, bytes):
        raise not_an_instance("filename", filename, "str")
    if not isinstance(filename, (str, os.PathLike)):
        raise TypeError(
            "argument 'filename': expected str, bytes or os.PathLike object, not "
            f"{type(filename).__name__}"
        )


def check_metadata(metadata: object) -> None:
    """Refuse metadata that is not strings by name, with the words of the reference.

    Args:
        metadata: What a program gave.

    Raises:
        TypeError: It is neither None nor a dict of strings.

    Example:
        >>> check_metadata({"step": 1})
        Traceback (most recent call last):
        TypeError: argument 'metadata': 'int' object is not an instance of 'str'
    """
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        raise not_an_instance("metadata", metadata, "dict")
    for part in (*metadata, *metadata.values()):
        if not isinstance(part, str):
            raise not_an_instance("metadata", part, "str")


def check_tensors(tensors: object) -> None:
    """Refuse what is not a dict with names for keys, with the words of the reference.

    Args:
        tensors: What a program gave.

    Raises:
        TypeError: It is no mapping, or a key is no string.
        InvalidInputError: A name is ``"__metadata__"``: the file could not be read again.

    Example:
        >>> check_tensors({1: None})
        Traceback (most recent call last):
        TypeError: argument 'tensor_dict': 'int' object is not an instance of 'str'
    """
    if not isinstance(tensors, Mapping):
        raise not_an_instance("tensor_dict", tensors, "dict")
    for name in tensors:
        if not isinstance(name, str):
            raise not_an_instance("tensor_dict", name, "str")
    if "__metadata__" in tensors:
        raise InvalidInputError(
            "a tensor cannot be named '__metadata__', which is where the format keeps metadata"
        )


def not_an_instance(argument: str, found: object, expected: str) -> TypeError:
    """What the reference raises for an argument of another type.

    Args:
        argument: Name of the argument.
        found: What a program gave.
        expected: Name of the type.

    Example:
        >>> str(not_an_instance("name", None, "str"))
        "argument 'name': 'None' is not an instance of 'str'"
    """
    kind = "'None'" if found is None else f"'{type(found).__name__}' object"
    return TypeError(f"argument '{argument}': {kind} is not an instance of '{expected}'")
