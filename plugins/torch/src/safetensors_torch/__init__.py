"""safetensors files for PyTorch.

The functions take and return tensors; `safetensors_core` has the same ones for any framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import safetensors_core

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer

    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend
    from safetensors_torch.accelerator import release_pinned_memory
    from safetensors_torch.models import load_model, save_model
    from safetensors_torch.sharing import storage_ptr, storage_size

__all__ = [
    "load",
    "load_file",
    "load_into",
    "load_model",
    "release_pinned_memory",
    "save",
    "save_file",
    "save_model",
    "storage_ptr",
    "storage_size",
]

__version__ = "0.1.0"

# What is imported with torch is imported when it is used.
_HOMES = {
    "load_model": "models",
    "release_pinned_memory": "accelerator",
    "save_model": "models",
    "storage_ptr": "sharing",
    "storage_size": "sharing",
}


def save(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    subclasses: Literal["refuse", "flatten"] = "refuse",
) -> bytes:
    """Save tensors to bytes.

    Args:
        tensors: Dense tensors by name, on any device. Not changed.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        subclasses: What to do with a tensor subclass that wraps other tensors: refuse it, or
            save its inner tensors as ``name.attribute`` and note in the metadata how to rebuild
            it.

    Returns:
        The bytes of a file.

    Raises:
        SharedMemoryError: Some tensors overlap in memory.
        InvalidInputError: A name, a metadata value or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.

    Example:
        >>> len(save({"w": torch.zeros(4)}))
        80
    """
    tensors, metadata = _flattened(tensors, metadata, subclasses)
    return safetensors_core.save(tensors, metadata, alignment=alignment)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    subclasses: Literal["refuse", "flatten"] = "refuse",
) -> None:
    """Save tensors to a file, whole or not at all.

    Args:
        tensors: Dense tensors by name, on any device; those that are not contiguous on the CPU
            are copied there one at a time. Not changed.
        filename: Path of the file, or a URL that can be written to.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.
        subclasses: What to do with a tensor subclass that wraps other tensors: refuse it, or
            save its inner tensors as ``name.attribute`` and note in the metadata how to rebuild
            it.

    Raises:
        SharedMemoryError: Some tensors overlap in memory.
        InvalidInputError: A name, a metadata value or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> save_file({"w": torch.zeros(2, 3)}, tmp_path / "model.safetensors")
    """
    tensors, metadata = _flattened(tensors, metadata, subclasses)
    safetensors_core.save_file(
        tensors,
        filename,
        metadata,
        alignment=alignment,
        fsync=fsync,
        storage_options=storage_options,
        progress=progress,
    )


def load(
    data: Buffer,
    device: str | int | torch.device = "cpu",
    *,
    dtype: str | safetensors_core.Dtype | torch.dtype | None = None,
    max_header: int = safetensors_core.MAX_HEADER,
    tied: Literal["expand"] | None = None,
    rebuild: Iterable[type] = (),
) -> dict[str, torch.Tensor]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file.
        device: Where the tensors shall live.
        dtype: What floating-point tensors become, as `load_file` has it.
        max_header: Longest header to accept, in bytes.
        tied: ``"expand"`` also gives back the names that `save_model` dropped because another
            tensor has their values; they share memory with it.
        rebuild: Classes of tensor subclasses that may be rebuilt, where the file has what
            ``subclasses="flatten"`` saved of them; otherwise their inner tensors are loaded.
            These have dtypes of their own: not together with `dtype`.

    Returns:
        Tensors by name. On the CPU they borrow `data` where it is writable; read-only data is
        copied.

    Raises:
        HeaderError: The bytes are not a valid safetensors file.
        InvalidInputError: An option is not valid, or a class does not rebuild its tensor.
        UnsupportedDtypeError: torch cannot represent a tensor exactly.

    Example:
        >>> load(save({"w": torch.ones(2)}))
        {'w': tensor([1., 1.])}
    """
    dtype = None if dtype is None else str(dtype)
    if tied is None and rebuild == ():
        return safetensors_core.load(data, "torch", device, dtype=dtype, max_header=max_header)
    from safetensors_torch.contents import load_contents

    return load_contents(
        data, device, dtype=dtype, max_header=max_header, tied=tied, rebuild=rebuild
    )


def load_file(
    filename: str | os.PathLike[str],
    device: str | int | torch.device = "cpu",
    *,
    backend: Backend = "auto",
    keys: str | Iterable[str] | Callable[[str], bool] | None = None,
    dtype: str | safetensors_core.Dtype | torch.dtype | None = None,
    max_header: int = safetensors_core.MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tied: Literal["expand"] | None = None,
    rebuild: Iterable[type] = (),
) -> dict[str, torch.Tensor]:
    """Load the tensors of a file, or of a checkpoint of several files.

    Args:
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one.
        device: Where the tensors shall live; on ``"meta"`` no data is read.
        backend: ``"mmap"`` (lazy; tensors on the CPU borrow the map, writable without effect on
            the file), ``"pread"`` (tensors own their memory), or ``"auto"``.
        keys: Which tensors: a name, a prefix that ends in ``*``, several of either, or a
            function of the name. All by default.
        dtype: What floating-point tensors become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``, a `torch.dtype`. All others stay as they are.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.
        tied: ``"expand"`` also gives back the names that `save_model` dropped because another
            tensor has their values; they share memory with it.
        rebuild: Classes of tensor subclasses that may be rebuilt, where the file has what
            ``subclasses="flatten"`` saved of them; otherwise their inner tensors are loaded.
            These have dtypes of their own: not together with `dtype`.

    Returns:
        Tensors by name, in the order of the files and of their bytes in them.

    Raises:
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        InvalidInputError: An option is not valid, or a class does not rebuild its tensor.
        TensorNotFoundError: A name or prefix in `keys` matches nothing.
        UnsupportedDtypeError: torch cannot represent a tensor exactly.
        OSError: The file cannot be opened or read.

    Example:
        >>> save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")
        {'w': tensor([1., 1.])}
    """
    dtype = None if dtype is None else str(dtype)
    if tied is None and rebuild == ():
        return safetensors_core.load_file(
            filename,
            "torch",
            device,
            backend=backend,
            keys=keys,
            dtype=dtype,
            max_header=max_header,
            storage_options=storage_options,
            progress=progress,
        )
    from safetensors_torch.contents import load_file_contents

    return load_file_contents(
        filename,
        device,
        backend=backend,
        keys=keys,
        dtype=dtype,
        max_header=max_header,
        storage_options=storage_options,
        progress=progress,
        tied=tied,
        rebuild=rebuild,
    )


def load_into(
    tensors: Mapping[str, torch.Tensor],
    filename: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    strict: bool = True,
    max_header: int = safetensors_core.MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Fill tensors that exist already with the content of a file or a checkpoint.

    Names, shapes and dtypes are compared before the first byte is written.

    Args:
        tensors: Tensors and parameters by name, such as a model's ``state_dict()``. Those that are
            contiguous on the CPU are read into directly; strided ones, those on other devices,
            and those of another floating-point dtype, by way of a few at a time. Autograd notices
            the change.
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one.
        backend: ``"auto"`` and ``"pread"`` read local files, ``"mmap"`` copies from a map.
        strict: Whether missing and unexpected names are an error.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Names of `tensors` that the file lacks, and names of the file that `tensors` lacks.

    Raises:
        StateDictError: Names or shapes do not match.
        InvalidInputError: A dtype does not fit, or a tensor is expanded.
        SharedMemoryError: The file has values for several tensors that overlap in memory.
        OSError: The file cannot be opened or read. Where some may be filled by then, the error
            says so.

    Example:
        >>> path = tmp_path / "model.safetensors"
        >>> save_file(torch.nn.Linear(2, 2).state_dict(), path)
        >>> model = torch.nn.Linear(2, 2)
        >>> load_into(model.state_dict(), path)
        ([], [])
    """
    return safetensors_core.load_into(
        tensors,
        filename,
        backend=backend,
        strict=strict,
        max_header=max_header,
        storage_options=storage_options,
        progress=progress,
    )


def _flattened(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None, subclasses: str
) -> tuple[Mapping[str, torch.Tensor], Mapping[str, str] | None]:
    """What is to be saved where wrappers are refused, or taken apart."""
    if subclasses == "refuse":
        return tensors, metadata
    from safetensors_torch.subclasses import check_option, flatten

    check_option(subclasses)
    return flatten(tensors, metadata)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
