"""The names of `safetensors.torch`, served by `safetensors_torch`."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from safetensors_core.compat import functions
from safetensors_core.compat.arguments import check_metadata, check_opening, check_path
from safetensors_core.compat.handle import safe_open
from safetensors_core.compat.serialization import (
    TensorSpec,
    deserialize,
    serialize,
    serialize_file,
)
from safetensors_core.compat.settings import is_strict
from safetensors_core.compat.torch_sharing import (
    end_pointer,
    find_shared_tensors,
    is_complete,
    remove_duplicate_names,
)
from safetensors_core.compat.translation import reading
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import SharedMemoryError, StateDictError

functions.check_plugin("torch")

import safetensors_torch  # noqa: E402  # the line above says how to install it

__all__ = [
    "TensorSpec",
    "deserialize",
    "load",
    "load_file",
    "load_model",
    "safe_open",
    "save",
    "save_file",
    "save_model",
    "serialize",
    "serialize_file",
    "storage_ptr",
    "storage_size",
]

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
}
_SIZE = {dtype: Dtype(code).bits // 8 for code, dtype in _TYPES.items()} | {
    torch.float8_e8m0fnu: 1,
    torch.float4_e2m1fn_x2: 1,
}
storage_ptr = safetensors_torch.storage_ptr
storage_size = safetensors_torch.storage_size
_end_ptr = end_pointer
_find_shared_tensors = find_shared_tensors
_is_complete = is_complete
_remove_duplicate_names = remove_duplicate_names


def save(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Save tensors to bytes.

    Args:
        tensors: Dense, contiguous tensors by name, which do not share memory.
        metadata: Strings by name to store in the header.

    Returns:
        The bytes of a file.

    Raises:
        RuntimeError: Tensors share memory.
        ValueError: A tensor is sparse or not contiguous.
        SafetensorError: The format has no such dtype.

    Example:
        >>> len(save({"w": torch.zeros(4)}))
        80
    """
    _check_tensors(tensors)
    with _sharing_refused():
        return functions.save(tensors, metadata)


def save_file(
    tensors: dict[str, torch.Tensor],
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
) -> None:
    """Save tensors to a file.

    Args:
        tensors: Dense, contiguous tensors by name, which do not share memory.
        filename: Path of the file.
        metadata: Strings by name to store in the header.

    Raises:
        RuntimeError: Tensors share memory.
        ValueError: A tensor is sparse or not contiguous.
        SafetensorError: The format has no such dtype, or the file cannot be written.

    Example:
        >>> save_file({"w": torch.zeros(4)}, tmp_path / "model.safetensors")
    """
    _check_tensors(tensors)
    with _sharing_refused():
        functions.save_file(tensors, filename, metadata)


def load(data: bytes) -> dict[str, torch.Tensor]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file.

    Returns:
        Tensors by name, which own their memory.

    Raises:
        SafetensorError: The bytes are not a valid file, or hold a dtype that PyTorch lacks.
        TypeError: They are not bytes.

    Example:
        >>> load(save({"w": torch.ones(2)}))
        {'w': tensor([1., 1.])}
    """
    return functions.load(data, "torch")


def load_file(
    filename: str | os.PathLike[str], device: str | int = "cpu", *, backend: str = "mmap"
) -> dict[str, torch.Tensor]:
    """Load the tensors of a file.

    Args:
        filename: Path of the file.
        device: Where the tensors shall live.
        backend: ``"mmap"``, with which tensors borrow a map of the file, or ``"pread"``.

    Returns:
        Tensors by name, in the order of the file.

    Raises:
        SafetensorError: The file is not valid, or holds a dtype that PyTorch lacks.
        FileNotFoundError: There is no such file.

    Example:
        >>> save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")
        {'w': tensor([1., 1.])}
    """
    return functions.load_file(filename, "pt", device, backend)


def save_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
    force_contiguous: bool = True,
) -> None:
    """Save a model whose parameters may be tied.

    Args:
        model: Any module.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        force_contiguous: Whether to pack tensors that are not contiguous; refused otherwise.

    Raises:
        RuntimeError: A tensor does not cover its storage, nor does one that shares it.
        ValueError: A tensor is not contiguous.
        SafetensorError: The file cannot be written.

    Example:
        >>> save_model(torch.nn.Linear(2, 2), tmp_path / "model.safetensors")
    """
    check_path(filename)
    check_metadata(metadata)
    tensors = dict(model.state_dict())
    _check_types(tensors)  # a module may keep more than tensors, which would be lost
    notes = dict(metadata or {})
    for kept, names in remove_duplicate_names(tensors).items():
        for name in names:
            notes.setdefault(name, kept)
            del tensors[name]
    scattered = [name for name, tensor in tensors.items() if not tensor.is_contiguous()]
    if scattered and not force_contiguous:
        raise ValueError(
            f"{_scattered(scattered[0])} Or use save_model(..., force_contiguous=True), read the "
            "docs for potential caveats."
        )
    stored = None if metadata is None and not notes else notes
    with _sharing_refused():
        functions.save_file(tensors, filename, stored)


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: str | int = "cpu",
    *,
    backend: str = "mmap",
) -> tuple[set[str], list[str]]:
    """Load a file into a model whose parameters may be tied.

    Args:
        model: The module; its tensors are overwritten in place.
        filename: Path of the file.
        strict: Whether missing and unexpected names are an error.
        device: Where the file's tensors are loaded before they are copied into the model's.
        backend: ``"mmap"`` or ``"pread"``.

    Returns:
        Names of the model that the file lacks, and names of the file that the model lacks.

    Raises:
        RuntimeError: Names or shapes do not match.
        SafetensorError: The file is not valid.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> save_model(model, tmp_path / "model.safetensors")
        >>> load_model(model, tmp_path / "model.safetensors")
        (set(), [])
    """
    check_opening(filename, "pt", device, backend)
    try:
        with reading():
            missing, unexpected = safetensors_torch.load_model(
                model, filename, strict, device, backend="mmap" if backend == "mmap" else "pread"
            )
    except StateDictError as error:
        raise RuntimeError(_mismatch(model, error)) from error
    return set(missing), unexpected


def _mismatch(model: torch.nn.Module, error: StateDictError) -> str:
    """What PyTorch itself would say."""
    lines = [f"Error(s) in loading state_dict for {type(model).__name__}:"]
    for kind, names in (("Missing", error.missing), ("Unexpected", error.unexpected)):
        if names and not error.mismatched:
            listed = ", ".join(f'"{name}"' for name in sorted(names))
            lines.append(f"    {kind} key(s) in state_dict: {listed}")
    for name, (found, wanted) in error.mismatched.items():
        lines.append(
            f"\tsize mismatch for {name}: copying a param with shape {torch.Size(found)} from "
            f"checkpoint, the shape in current model is {torch.Size(wanted)}."
        )
    return "\n".join(lines)


def _check_types(tensors: Mapping[str, object]) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(  # noqa: TRY004  # as the reference
                f"Key `{name}` is invalid, expected torch.Tensor but received {type(tensor)}"
            )


def _check_tensors(tensors: Any) -> None:
    if not isinstance(tensors, dict):
        raise ValueError(  # noqa: TRY004  # as the reference
            f"Expected a dict of [str, torch.Tensor] but received {type(tensors)}"
        )
    _check_types(tensors)
    sparse, scattered = [], []
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            sparse.append(name)
        elif not tensor.is_contiguous():
            scattered.append(name)
    if sparse:
        raise ValueError(
            f"You are trying to save a sparse tensors: `{sparse}` which this library does not "
            "support. You can make it a dense tensor before saving with `.to_dense()` but be "
            "aware this might make a much larger file than needed."
        )
    if scattered or is_strict():
        shared = [names for names in find_shared_tensors(tensors) if len(names) > 1]
        if shared:
            raise RuntimeError(_shared(shared))
    if scattered:
        raise ValueError(_scattered(scattered[0]))


@contextlib.contextmanager
def _sharing_refused() -> Iterator[None]:
    try:
        yield
    except SharedMemoryError as error:
        raise RuntimeError(_shared([set(group) for group in error.groups])) from error


def _scattered(name: str) -> str:
    # The words of the reference, which its users compare; so in the other refusals here.
    return (
        f"You are trying to save a non contiguous tensor: `{name}` which is not allowed. It either "
        "means you are trying to save tensors which are reference of each other in which case "
        "it's recommended to save only the full tensors, and reslice at load time, or simply call "
        "`.contiguous()` on your tensor to pack it before saving."
    )


def _shared(groups: list[set[str]]) -> str:
    return (
        "Some tensors share memory, this will lead to duplicate memory on disk and potential "
        f"differences when loading them again: {groups}. `save_model` saves one name of each "
        "group."
    )


def _getdtype(dtype_str: str) -> torch.dtype:
    return _TYPES[dtype_str]


def _to_ndarray(tensor: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """The bytes of a contiguous tensor as an array that borrows them, and who owns them."""
    import numpy as np

    host = tensor.to("cpu")
    if not host.numel():
        return np.empty(0, np.uint8), host
    memory = (ctypes.c_ubyte * (host.numel() * _SIZE[host.dtype])).from_address(host.data_ptr())
    return np.frombuffer(memoryview(memory).cast("B"), np.uint8), host


def _tobytes(tensor: torch.Tensor, name: str) -> bytes:
    """The bytes of a tensor, which must be dense and contiguous."""
    _check_tensors({name: tensor})
    array, _ = _to_ndarray(tensor)
    return bytes(array.data)
