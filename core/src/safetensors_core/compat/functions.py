"""What the framework modules of the reference have in common: save and load with its manners."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from safetensors_core.compat.arguments import (
    check_bytes,
    check_metadata,
    check_path,
    check_tensors,
)
from safetensors_core.compat.handle import safe_open
from safetensors_core.compat.settings import is_durable
from safetensors_core.compat.translation import reading, saving
from safetensors_core.plugins import get_framework
from safetensors_core.reader import load as load_bytes
from safetensors_core.writer import save as save_bytes
from safetensors_core.writer import save_file as write_file

__all__ = ["check_plugin", "load", "load_file", "save", "save_file"]


def check_plugin(framework: str) -> None:
    """Refuse to serve a framework whose plugin is missing.

    Args:
        framework: Name of the framework.

    Raises:
        ImportError: Its plugin is not installed; the error says how to install it.

    Example:
        >>> check_plugin(np.__name__)
    """
    with reading():
        get_framework(framework)


def save(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None) -> bytes:
    """Save tensors to bytes.

    Args:
        tensors: Tensors by name.
        metadata: Strings by name to store in the header.

    Returns:
        The bytes of a file.

    Raises:
        SafetensorError: The format has no such dtype.
        TypeError: A name or a metadata value is no string.

    Example:
        >>> len(save({"w": np.zeros(4)}, None))
        96
    """
    check_tensors(tensors)
    check_metadata(metadata)
    with saving():
        return save_bytes(tensors, metadata)


def save_file(
    tensors: Mapping[str, Any],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None,
) -> None:
    """Save tensors to a file; whether it is on disk afterwards, `settings` decides.

    Args:
        tensors: Tensors by name.
        filename: Path of the file.
        metadata: Strings by name to store in the header.

    Raises:
        SafetensorError: The format has no such dtype, or the file cannot be written.
        TypeError: A name or a metadata value is no string, or `filename` is no path.

    Example:
        >>> save_file({"w": np.zeros(4)}, tmp_path / "model.safetensors", None)
    """
    check_tensors(tensors)
    check_path(filename)
    check_metadata(metadata)
    with saving():
        write_file(tensors, filename, metadata, fsync=is_durable())


def load(data: bytes, framework: str, device: Any = "cpu") -> dict[str, Any]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file.
        framework: Name of the framework.
        device: Where the tensors shall live.

    Returns:
        Tensors by name, which own their memory.

    Raises:
        SafetensorError: The bytes are not a valid file, or hold a dtype that the framework
            does not have.
        TypeError: They are not bytes.

    Example:
        >>> load(save({"w": np.ones(2)}, None), "numpy")
        {'w': array([1., 1.])}
    """
    check_bytes(data)
    with reading("deserializing"):
        return load_bytes(data, framework, device)


def load_file(
    filename: str | os.PathLike[str], framework: str, device: Any = "cpu", backend: str = "mmap"
) -> dict[str, Any]:
    """Load the tensors of a file.

    Args:
        filename: Path of the file.
        framework: Name of the framework, as `safe_open` takes it.
        device: Where the tensors shall live.
        backend: ``"mmap"`` or ``"pread"``.

    Returns:
        Tensors by name, in the order of the file.

    Raises:
        SafetensorError: The file is not valid, or holds a dtype that the framework has not.
        FileNotFoundError: There is no such file.

    Example:
        >>> load_file(model_path, "np")["bias"]
        array([0., 0., 0.], dtype=float32)
    """
    with safe_open(filename, framework, device, backend=backend) as file:
        return file.get_tensors()
