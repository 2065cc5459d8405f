"""safetensors files for PaddlePaddle.

The functions take and return tensors; `safetensors_core` has the same ones for any framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import safetensors_core

if TYPE_CHECKING:
    import paddle
    from typing_extensions import Buffer

    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend
    from safetensors_paddle.accelerator import release_pinned_memory
    from safetensors_paddle.models import load_model, save_model

__all__ = [
    "load",
    "load_file",
    "load_into",
    "load_model",
    "release_pinned_memory",
    "save",
    "save_file",
    "save_model",
]

__version__ = "0.1.0"

# What is imported with Paddle is imported when it is used.
_HOMES = {
    "load_model": "models",
    "release_pinned_memory": "accelerator",
    "save_model": "models",
}


def save(
    tensors: Mapping[str, paddle.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
) -> bytes:
    """Save tensors to bytes.

    Args:
        tensors: Dense tensors by name, on any device. Not changed. Tensors that share memory are
            saved one by one.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.

    Returns:
        The bytes of a file.

    Raises:
        InvalidInputError: A name, a metadata value or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.

    Example:
        >>> len(save({"w": paddle.zeros([4])}))
        80
    """
    return safetensors_core.save(tensors, metadata, alignment=alignment)


def save_file(
    tensors: Mapping[str, paddle.Tensor],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Save tensors to a file, whole or not at all.

    Args:
        tensors: Dense tensors by name, on any device; those that are not contiguous on the CPU
            are copied there one at a time. Not changed. Tensors that share memory are saved one
            by one.
        filename: Path of the file, or a URL that can be written to.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: A name, a metadata value or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> save_file({"w": paddle.zeros([2, 3])}, tmp_path / "model.safetensors")
    """
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
    device: Any = "cpu",
    *,
    dtype: Any = None,
    max_header: int = safetensors_core.MAX_HEADER,
) -> dict[str, paddle.Tensor]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file.
        device: Where the tensors shall live: ``"gpu:0"``, `paddle.CPUPlace()` and the like; None
            for the device that Paddle uses at the moment.
        dtype: What floating-point tensors become, as `load_file` has it.
        max_header: Longest header to accept, in bytes.

    Returns:
        Tensors by name, which take no part in gradients. On the CPU they borrow `data` where it
        is writable; read-only data is copied.

    Raises:
        HeaderError: The bytes are not a valid safetensors file.
        UnsupportedDtypeError: Paddle cannot represent a tensor exactly.
        InvalidInputError: The device cannot be used.

    Example:
        >>> load(save({"w": paddle.ones([2])}))["w"].tolist()
        [1.0, 1.0]
    """
    return safetensors_core.load(data, "paddle", device, dtype=dtype, max_header=max_header)


def load_file(
    filename: str | os.PathLike[str],
    device: Any = "cpu",
    *,
    backend: Backend = "auto",
    keys: str | Iterable[str] | Callable[[str], bool] | None = None,
    dtype: Any = None,
    max_header: int = safetensors_core.MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, paddle.Tensor]:
    """Load the tensors of a file, or of a checkpoint of several files.

    Args:
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one.
        device: Where the tensors shall live: ``"gpu:0"``, `paddle.CPUPlace()` and the like; None
            for the device that Paddle uses at the moment.
        backend: ``"mmap"`` (lazy; tensors on the CPU borrow the map, writable without effect on
            the file), ``"pread"`` (tensors own their memory), or ``"auto"``.
        keys: Which tensors: a name, a prefix that ends in ``*``, several of either, or a
            function of the name. All by default.
        dtype: What floating-point tensors become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``. All others stay as they are.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Tensors by name, in the order of the file. They take no part in gradients.

    Raises:
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        TensorNotFoundError: A name or prefix in `keys` matches nothing.
        UnsupportedDtypeError: Paddle cannot represent a tensor exactly.
        InvalidInputError: The device cannot be used.
        OSError: The file cannot be opened or read.

    Example:
        >>> save_file({"w": paddle.ones([2])}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")["w"].tolist()
        [1.0, 1.0]
    """
    return safetensors_core.load_file(
        filename,
        "paddle",
        device,
        backend=backend,
        keys=keys,
        dtype=dtype,
        max_header=max_header,
        storage_options=storage_options,
        progress=progress,
    )


def load_into(
    tensors: Mapping[str, paddle.Tensor],
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
        tensors: Tensors and parameters by name, such as a layer's ``state_dict()``. Those that are
            contiguous on the CPU are read into directly; strided ones, those on other devices,
            and those of another floating-point dtype, by way of a few at a time.
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
        InvalidInputError: A dtype does not fit, or Paddle does not convert to it.
        SharedMemoryError: The file has values for several tensors that overlap in memory.
        OSError: The file cannot be opened or read. Where some may be filled by then, the error
            says so.

    Example:
        >>> save_file({"w": paddle.ones([2])}, tmp_path / "model.safetensors")
        >>> tensor = paddle.zeros([2])
        >>> load_into({"w": tensor}, tmp_path / "model.safetensors")
        ([], [])
        >>> tensor.tolist()
        [1.0, 1.0]
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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
