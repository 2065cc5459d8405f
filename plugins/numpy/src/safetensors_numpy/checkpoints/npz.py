"""`.npy` and `.npz` as NumPy, MLX and others write them."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from safetensors_core import ConversionError, Dtype, SafetensorError, UnsupportedDtypeError
from safetensors_core.convert import (
    ForeignCheckpoint,
    Function,
    Opaque,
    StoredTensor,
    load_pickle,
    open_archive,
)
from safetensors_numpy.checkpoints.signatures import format_of
from safetensors_numpy.checkpoints.stored import checked_spec, faults, region_of, stored_tensor
from safetensors_numpy.framework import NumpyFramework

__all__ = ["holds_void", "read_npy", "read_npz"]

_CODES = {dtype: code for code, dtype in NumpyFramework.dtypes.items()}
_VOID = np.dtype("V2")
_MOST_HEADER = 16 * 1024  # bytes; NumPy itself reads no longer ones

# Version 3 differs from 2 only where fields have names, which no tensor has.
_PARSERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
    (3, 0): npy_format.read_array_header_2_0,
}

_NO_OBJECTS = "Objects are not tensors; nothing of its pickle was run"
_NO_VOID = (
    "NumPy saves bfloat16 so, and does not say that it is: view the array as another type "
    "before it is saved, or install the plugin for MLX, which reads it as bfloat16"
)


class _Header(NamedTuple):
    """What stands before the bytes of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int  # of the header itself, in bytes


# What an array of plain objects asks for; so what is named is what somebody put into it.
_OF_NUMPY = {
    name: Function(lambda *_: Opaque("object"))
    for name in (
        "_codecs.encode",
        "numpy.dtype",
        "numpy.ndarray",
        *(
            f"{module}.{name}"
            for module in ("numpy._core", "numpy.core")
            for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
        ),
    )
}


def holds_void(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds an array of two bytes per element of which NumPy knows no more.

    That is what bfloat16 becomes in the files of MLX, and in those of NumPy with `ml_dtypes`.

    Args:
        path: An `.npz` or `.npy` file, by its bytes.

    Returns:
        True if one or more arrays are such.

    Raises:
        ConversionError: It is damaged.

    Example:
        >>> np.save(tmp_path / "w.npy", np.zeros(3, "V2"))
        >>> holds_void(tmp_path / "w.npy")
        True
    """
    location = os.fsdecode(path)
    if format_of(path) == "npy":
        with open(path, "rb") as file:
            return _read_header(file, _stem(location), location).dtype == _VOID
    with open_archive(path) as archive:
        return any(
            _entry_header(archive, entry, location).dtype == _VOID for entry in _arrays(archive)
        )


def read_npy(path: str | os.PathLike[str], void: Dtype | None = None) -> ForeignCheckpoint:
    """Read an `.npy` file: one tensor, named as the file without its ending.

    Args:
        path: The file.
        void: What arrays of two bytes per element are of which NumPy knows no more; None to
            refuse them.

    Returns:
        The checkpoint. Of an array in C order, memory holds one chunk at a time. An array of a
        type that the safetensors format has not is refused.

    Raises:
        UnsafeCheckpointError: It holds objects whose pickle would run code.
        ConversionError: It is damaged.

    Example:
        >>> np.save(tmp_path / "bias.npy", np.zeros(3, np.float32))
        >>> read_npy(tmp_path / "bias.npy").tensors["bias"].spec
        TensorSpec(dtype=<Dtype.F32: 'F32'>, shape=(3,))
    """
    location = os.fsdecode(path)
    name = _stem(location)
    with open(path, "rb") as file:
        header = _read_header(file, name, location)
        size = os.fstat(file.fileno()).st_size
    open_at = region_of(location, header.size)
    tensors: dict[str, StoredTensor] = {}
    refused: dict[str, SafetensorError] = {}
    try:
        tensors[name] = _stored(name, header, size, open_at, location, void=void)
    except UnsupportedDtypeError as error:
        refused[name] = error.with_traceback(None)  # whose frames would hold each other
    return ForeignCheckpoint(tensors, framework="numpy", format="np", refused=refused)


def read_npz(path: str | os.PathLike[str], void: Dtype | None = None) -> ForeignCheckpoint:
    """Read an `.npz` archive; tensors are named as in the archive, without ``.npy``.

    Args:
        path: The file.
        void: What arrays of two bytes per element are of which NumPy knows no more; None to
            refuse them.

    Returns:
        The checkpoint; whoever asked closes it. Of an array in C order, memory holds one chunk at
        a time, else that array. Arrays of types that the safetensors format has not are refused.

    Raises:
        UnsafeCheckpointError: It would leave its folder or expand without measure, or it holds
            objects whose pickle would run code.
        ConversionError: It is damaged.

    Example:
        >>> np.savez(tmp_path / "model.npz", bias=np.zeros(3, np.float32))
        >>> found = read_npz(tmp_path / "model.npz")
        >>> found.tensors["bias"].read()
        array([0., 0., 0.], dtype=float32)
        >>> found.close()
    """
    location = os.fsdecode(path)
    archive = open_archive(path)
    try:
        tensors: dict[str, StoredTensor] = {}
        refused: dict[str, SafetensorError] = {}
        for entry in _arrays(archive):
            name = entry.filename.removesuffix(".npy")
            header = _entry_header(archive, entry, location)
            open_at = _entry_opener(archive, entry, header.size)
            try:
                tensors[name] = _stored(name, header, entry.file_size, open_at, location, void=void)
            except UnsupportedDtypeError as error:
                refused[name] = error.with_traceback(None)  # whose frames would hold the archive
        left_out = {
            entry.filename: "no array of NumPy"
            for entry in archive.infolist()
            if not entry.filename.endswith(".npy") and not entry.is_dir()
        }
    except BaseException:
        archive.close()
        raise
    return ForeignCheckpoint(
        tensors,
        framework="numpy",
        format="np",
        left_out=left_out,
        refused=refused,
        close=archive.close,
    )


def _stem(location: str) -> str:
    return os.path.splitext(os.path.basename(location))[0]


def _arrays(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]


def _entry_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, location: str) -> _Header:
    with faults(location, repr(entry.filename)), archive.open(entry) as stream:
        return _read_header(stream, entry.filename.removesuffix(".npy"), location)


def _entry_opener(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, header: int
) -> Callable[[], IO[bytes]]:
    def open_entry() -> IO[bytes]:
        stream = archive.open(entry)
        stream.read(header)  # after a seek, zipfile would no longer compare checksums
        return stream

    return open_entry


def _read_header(stream: IO[bytes], name: str, location: str) -> _Header:
    start = io.BytesIO(stream.read(_MOST_HEADER))
    try:
        parse = _PARSERS[npy_format.read_magic(start)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of Python 2
            shape, fortran, dtype = parse(start)
    except Exception:  # noqa: BLE001  # MemoryError too: what Python's parser may say
        raise ConversionError(f"tensor {name!r}: its header is damaged", location) from None
    return _Header(dtype, shape, fortran, start.tell())


def _stored(
    name: str,
    header: _Header,
    size: int,
    open_at: Callable[[], IO[bytes]],
    location: str,
    *,
    void: Dtype | None,
) -> StoredTensor:
    dtype = header.dtype
    if dtype.hasobject:
        _refuse_objects(name, dtype, open_at, location)
    code = void if dtype == _VOID else _CODES.get(dtype.newbyteorder("<"))
    if code is None:
        raise _unsupported(dtype, name, location, _NO_VOID if dtype == _VOID else "")
    spec = checked_spec(name, code, header.shape, size - header.size, location)
    # MLX calls vectors Fortran-ordered, too.
    fortran = header.fortran and sum(length != 1 for length in spec.shape) > 1
    swapped = dtype != dtype.newbyteorder("<")
    return stored_tensor(name, spec, open_at, location, swapped=swapped, fortran=fortran)


def _refuse_objects(
    name: str, dtype: np.dtype[Any], open_at: Callable[[], IO[bytes]], location: str
) -> None:
    with faults(location, f"tensor {name!r}"), open_at() as stream:
        load_pickle(stream, location, _OF_NUMPY)
    raise _unsupported(dtype, name, location, _NO_OBJECTS)


def _unsupported(
    dtype: np.dtype[Any], name: str, location: str, remedy: str
) -> UnsupportedDtypeError:
    error = UnsupportedDtypeError(dtype, "the safetensors format", tensor=name, remedy=remedy)
    error.location = location
    return error
