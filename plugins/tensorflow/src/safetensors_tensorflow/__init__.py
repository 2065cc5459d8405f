"""safetensors files for TensorFlow and Keras.

The functions take and return tensors; `safetensors_core` has the same ones for any framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import safetensors_core

if TYPE_CHECKING:
    import tensorflow as tf
    from typing_extensions import Buffer

    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend
    from safetensors_tensorflow.models import load_model, save_model

__all__ = [
    "load",
    "load_file",
    "load_into",
    "load_model",
    "save",
    "save_file",
    "save_model",
]

__version__ = "0.1.0"


def save(
    tensors: Mapping[str, tf.Tensor | tf.Variable],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
) -> bytes:
    """Save tensors to bytes.

    Args:
        tensors: Dense tensors and variables by name, on any device. Not changed.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.

    Returns:
        The bytes of a file.

    Raises:
        InvalidInputError: A name, a metadata value or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.

    Example:
        >>> len(save({"w": tf.zeros(4)}))
        80
    """
    return safetensors_core.save(tensors, metadata, alignment=alignment)


def save_file(
    tensors: Mapping[str, tf.Tensor | tf.Variable],
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
        tensors: Dense tensors and variables by name, on any device; those that are not on the
            CPU are copied there one at a time. Not changed.
        filename: Path of the file, or a URL that can be written to.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
            At 64, tensors whose sizes are multiples of 64 bytes load without a copy.
        fsync: Whether to wait until the file is on disk.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: A name, a metadata value or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> save_file({"w": tf.zeros((2, 3))}, tmp_path / "model.safetensors")
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
) -> dict[str, tf.Tensor]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file.
        device: Where the tensors shall live: ``"cpu"``, ``"/GPU:0"``, a
            `tf.config.LogicalDevice`, or None for TensorFlow's own default.
        dtype: What floating-point tensors become, as `load_file` has it.
        max_header: Longest header to accept, in bytes.

    Returns:
        Tensors by name. On the CPU they borrow `data` where it is writable and they begin at a
        multiple of 64 bytes in memory; others are copies.

    Raises:
        HeaderError: The bytes are not a valid safetensors file.
        InvalidInputError: There is no such device.
        UnsupportedDtypeError: TensorFlow cannot represent a tensor exactly.

    Example:
        >>> load(save({"w": tf.ones(2)}))["w"].numpy()
        array([1., 1.], dtype=float32)
    """
    return safetensors_core.load(data, "tensorflow", device, dtype=dtype, max_header=max_header)


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
) -> dict[str, tf.Tensor]:
    """Load the tensors of a file, or of a checkpoint of several files.

    Args:
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one.
        device: Where the tensors shall live: ``"cpu"``, ``"/GPU:0"``, a
            `tf.config.LogicalDevice`, or None for TensorFlow's own default.
        backend: ``"mmap"`` (tensors on the CPU that lie at a multiple of 64 bytes borrow the
            map; others are copied), ``"pread"`` (tensors own their memory), or ``"auto"``.
        keys: Which tensors: a name, a prefix that ends in ``*``, several of either, or a
            function of the name. All by default.
        dtype: What floating-point tensors become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``. All others stay as they are.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Tensors by name, in the order of the files and of their bytes in them.

    Raises:
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        InvalidInputError: There is no such device.
        TensorNotFoundError: A name or prefix in `keys` matches nothing.
        UnsupportedDtypeError: TensorFlow cannot represent a tensor exactly.
        OSError: The file cannot be opened or read.

    Example:
        >>> save_file({"w": tf.ones(2)}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")["w"].numpy()
        array([1., 1.], dtype=float32)
    """
    return safetensors_core.load_file(
        filename,
        "tensorflow",
        device,
        backend=backend,
        keys=keys,
        dtype=dtype,
        max_header=max_header,
        storage_options=storage_options,
        progress=progress,
    )


def load_into(
    tensors: Mapping[str, tf.Variable],
    filename: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    strict: bool = True,
    max_header: int = safetensors_core.MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Fill variables that exist already with the content of a file or a checkpoint.

    Names, shapes and dtypes are compared before the first byte is written.

    Args:
        tensors: Variables by name, those of Keras too; a few at a time are loaded and assigned.
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
        InvalidInputError: A dtype does not fit, or one is a tf.Tensor, which cannot change.
        SharedMemoryError: The file has values for several variables that overlap in memory.
        OSError: The file cannot be opened or read. Where some may be filled by then, the error
            says so.

    Example:
        >>> save_file({"w": tf.ones(2)}, tmp_path / "model.safetensors")
        >>> variable = tf.Variable(tf.zeros(2))
        >>> load_into({"w": variable}, tmp_path / "model.safetensors")
        ([], [])
        >>> variable.numpy()
        array([1., 1.], dtype=float32)
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
    # What works on models imports Keras, so it is imported when it is used.
    if name in ("load_model", "save_model"):
        from safetensors_tensorflow import models

        return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
