"""Tensors whose bytes lie in a file as they are, or almost: in chunks, or as an array."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from safetensors_core import (
    ConversionError,
    Dtype,
    SafetensorError,
    TensorInfo,
    TensorSpec,
)
from safetensors_core.convert import StoredTensor
from safetensors_numpy.framework import NumpyFramework

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["checked_shape", "checked_spec", "faults", "in_memory", "region_of", "stored_tensor"]

_NUMPY = NumpyFramework()
_CHUNK = 4 * 2**20  # bytes
_MOST_DIMENSIONS = 64  # of an array in NumPy 2


@contextlib.contextmanager
def faults(location: str, what: str) -> Iterator[None]:
    """Turn what a library raises for a damaged file into an error of ours.

    Args:
        location: The file.
        what: What is being read, for the message.

    Raises:
        ConversionError: Anything was raised that is no error of ours, nor one of the system.

    Example:
        >>> with faults("a.onnx", "the model"):
        ...     int("x")
        Traceback (most recent call last):
        safetensors_core.errors.ConversionError: a.onnx: the model cannot be read: ValueError: ...
    """
    try:
        yield
    except (SafetensorError, MemoryError):
        raise
    except Exception as error:
        # bz2 says so of damaged data, without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        detail = f"{what} cannot be read: {type(error).__name__}: {error}"
        raise ConversionError(detail, location) from None


def checked_shape(name: str, dtype: Dtype, shape: tuple[int, ...], location: str) -> TensorSpec:
    """Dtype and shape of a tensor, if a file can hold such a tensor at all.

    Args:
        name: Name of the tensor.
        dtype: Its element type.
        shape: What the file says its shape is.
        location: The file.

    Returns:
        The spec.

    Raises:
        ConversionError: No array can have this shape.

    Example:
        >>> checked_shape("w", Dtype.F32, (-1,), "a.npz")
        Traceback (most recent call last):
        safetensors_core.errors.ConversionError: a.npz: tensor 'w': no array can have the shape [-1]
    """
    # NumPy multiplies the lengths even where one is zero, in 63 bits.
    beside_zeros = math.prod(length or 1 for length in shape[:_MOST_DIMENSIONS])
    fits = 0 < beside_zeros * dtype.bits < 2**63 and min(shape, default=0) >= 0
    if len(shape) > _MOST_DIMENSIONS or not fits:
        more = ", ..." if len(shape) > 8 else ""
        shown = f"[{', '.join(map(str, shape[:8]))}{more}]"
        raise ConversionError(f"tensor {name!r}: no array can have the shape {shown}", location)
    return TensorSpec(dtype, shape)


def checked_spec(
    name: str, dtype: Dtype, shape: tuple[int, ...], held: int, location: str
) -> TensorSpec:
    """Dtype and shape of a tensor, if the bytes that are there are as many as these ask for.

    Args:
        name: Name of the tensor.
        dtype: Its element type.
        shape: What the file says its shape is.
        held: Bytes that the file has for it.
        location: The file.

    Returns:
        The spec.

    Raises:
        ConversionError: They do not fit, or no file can hold such a tensor.

    Example:
        >>> checked_spec("w", Dtype.F32, (2, 3), 20, "a.npz")
        Traceback (most recent call last):
        safetensors_core.errors.ConversionError: a.npz: tensor 'w' of shape [2, 3] and dtype F32 ...
    """
    spec = checked_shape(name, dtype, shape, location)
    if spec.nbytes != held:
        raise ConversionError(
            f"tensor {name!r} of shape {list(shape)} and dtype {dtype} needs {spec.nbytes:,} "
            f"bytes, and the file has {held:,} for it",
            location,
        )
    return spec


def region_of(path: str, offset: int) -> Callable[[], IO[bytes]]:
    """Opens a file at an offset, each time it is called.

    Args:
        path: The file.
        offset: Where the bytes begin.

    Returns:
        A function that opens it; whoever calls it closes the stream.

    Example:
        >>> (tmp_path / "a").write_bytes(b"headdata")
        8
        >>> with region_of(str(tmp_path / "a"), 4)() as stream:
        ...     stream.read()
        b'data'
    """

    def open_region() -> IO[bytes]:
        stream = open(path, "rb")  # noqa: SIM115  # the caller closes it
        stream.seek(offset)
        return stream

    return open_region


def stored_tensor(
    name: str,
    spec: TensorSpec,
    open_at: Callable[[], IO[bytes]],
    location: str,
    *,
    swapped: bool = False,
    fortran: bool = False,
    key: Hashable | None = None,
) -> StoredTensor:
    """A tensor that is read from a stream when it is wanted.

    Args:
        name: Its name, for errors.
        spec: Its dtype and shape, checked against the size of the file.
        open_at: Opens the stream where its bytes begin.
        location: The file, for errors.
        swapped: Whether its numbers are big-endian.
        fortran: Whether the first dimension is the innermost.
        key: Identity of the tensor; see `StoredTensor`.

    Returns:
        The tensor. It has chunks if its bytes lie in the file as they are written.

    Example:
        >>> (tmp_path / "a").write_bytes(bytes(range(6)))
        6
        >>> spec = TensorSpec(Dtype.U8, (2, 3))
        >>> stored_tensor("w", spec, region_of(str(tmp_path / "a"), 0), "a").read()
        array([[0, 1, 2],
               [3, 4, 5]], dtype=uint8)
    """

    def chunks() -> Iterator[bytes]:
        with faults(location, f"tensor {name!r}"), open_at() as stream:
            left = spec.nbytes
            while left:
                data = stream.read(min(left, _CHUNK))
                if not data:
                    raise ConversionError(
                        f"tensor {name!r} ends {left:,} bytes too early", location
                    )
                left -= len(data)
                yield data
            stream.read(1)  # zipfile compares checksums where an entry ends

    def read() -> npt.NDArray[Any]:
        memory = bytearray(spec.nbytes)
        position = 0
        for data in chunks():
            memory[position : position + len(data)] = data
            position += len(data)
        if swapped:
            width = 4 if spec.dtype is Dtype.C64 else spec.dtype.bits // 8
            np.frombuffer(memory, f"u{width}").byteswap(inplace=True)
        if fortran:
            reversed_spec = TensorSpec(spec.dtype, spec.shape[::-1])
            return np.transpose(_array(memory, reversed_spec))
        return _array(memory, spec)

    return StoredTensor(spec, read, None if swapped or fortran else chunks, key)


def in_memory(spec: TensorSpec, data: Callable[[], Buffer]) -> StoredTensor:
    """A tensor of a file that is in memory as a whole.

    Args:
        spec: Its dtype and shape.
        data: Gives its bytes, as they are written.

    Returns:
        The tensor.

    Example:
        >>> in_memory(TensorSpec(Dtype.U8, (3,)), lambda: b"abc").read()
        array([97, 98, 99], dtype=uint8)
    """
    return StoredTensor(spec, lambda: _array(data(), spec), lambda: (data(),))


def _array(data: Buffer, spec: TensorSpec) -> npt.NDArray[Any]:
    info = TensorInfo(spec.dtype, spec.shape, (0, spec.nbytes))
    array: npt.NDArray[Any] = _NUMPY.from_buffers(memoryview(data), {"": info}, None)[""]
    return array
