"""safetensors files for NumPy.

The functions take and return arrays; `safetensors_core` has the same ones for any framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import safetensors_core

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend

__all__ = ["load", "load_file", "load_into", "save", "save_file"]

__version__ = "0.1.0"


def save(
    tensor_dict: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
) -> bytes:
    """Save arrays to bytes.

    Args:
        tensor_dict: Arrays by name; strided, transposed and big-endian ones too. Not changed.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.

    Returns:
        The bytes of a file.

    Raises:
        InvalidInputError: A name, a metadata value or an array cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.

    Example:
        >>> len(save({"w": np.zeros(4)}))
        96
    """
    return safetensors_core.save(tensor_dict, metadata, alignment=alignment)


def save_file(
    tensor_dict: Mapping[str, npt.NDArray[Any]],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Save arrays to a file, whole or not at all.

    Args:
        tensor_dict: Arrays by name; strided, transposed and big-endian ones too. Not changed.
        filename: Path of the file, or a URL that can be written to.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: A name, a metadata value or an array cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> save_file({"w": np.zeros((2, 3))}, tmp_path / "model.safetensors")
    """
    safetensors_core.save_file(
        tensor_dict,
        filename,
        metadata,
        alignment=alignment,
        fsync=fsync,
        storage_options=storage_options,
        progress=progress,
    )


def load(
    data: Buffer,
    device: str = "cpu",
    *,
    dtype: Any = None,
    max_header: int = safetensors_core.MAX_HEADER,
) -> dict[str, npt.NDArray[Any]]:
    """Load the arrays of a file that is in memory.

    Args:
        data: The bytes of a file.
        device: ``"cpu"``; here for symmetry with other frameworks.
        dtype: What floating-point arrays become, as `load_file` has it.
        max_header: Longest header to accept, in bytes.

    Returns:
        Arrays by name. They borrow `data` where it is writable; read-only data is copied.

    Raises:
        HeaderError: The bytes are not a valid safetensors file.

    Example:
        >>> load(save({"w": np.ones(2)}))
        {'w': array([1., 1.])}
    """
    return safetensors_core.load(data, "numpy", device, dtype=dtype, max_header=max_header)


def load_file(
    filename: str | os.PathLike[str],
    device: str = "cpu",
    *,
    backend: Backend = "auto",
    keys: str | Iterable[str] | Callable[[str], bool] | None = None,
    dtype: Any = None,
    max_header: int = safetensors_core.MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Load the arrays of a file, or of a checkpoint of several files.

    Args:
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one.
        device: ``"cpu"``; here for symmetry with other frameworks.
        backend: ``"mmap"`` (lazy; arrays borrow the map, writable without effect on the file),
            ``"pread"`` (arrays own their memory), or ``"auto"``.
        keys: Which arrays: a name, a prefix that ends in ``*``, several of either, or a
            function of the name. All by default.
        dtype: What floating-point arrays become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``. All others stay as they are.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Arrays by name, in the order of the files and of their bytes in them.

    Raises:
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        TensorNotFoundError: A name or prefix in `keys` matches nothing.
        OSError: The file cannot be opened or read.

    Example:
        >>> save_file({"w": np.ones(2)}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")
        {'w': array([1., 1.])}
    """
    return safetensors_core.load_file(
        filename,
        "numpy",
        device,
        backend=backend,
        keys=keys,
        dtype=dtype,
        max_header=max_header,
        storage_options=storage_options,
        progress=progress,
    )


def load_into(
    tensors: Mapping[str, npt.NDArray[Any]],
    filename: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    strict: bool = True,
    max_header: int = safetensors_core.MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Fill arrays that exist already with the content of a file or a checkpoint.

    Names, shapes and dtypes are compared before the first byte is written.

    Args:
        tensors: Arrays by name. Contiguous ones are read into directly; strided or big-endian ones,
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
        InvalidInputError: A dtype does not fit, or an array is read-only.
        SharedMemoryError: The file has values for several arrays that overlap in memory.
        OSError: The file cannot be opened or read. Where some may be filled by then, the error
            says so.

    Example:
        >>> save_file({"w": np.ones(2)}, tmp_path / "model.safetensors")
        >>> array = np.zeros(2)
        >>> load_into({"w": array}, tmp_path / "model.safetensors")
        ([], [])
        >>> array
        array([1., 1.])
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
