"""`serialize`, `serialize_file`, `deserialize` and `TensorSpec`, as the reference has them."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from operator import index
from typing import Any, NoReturn

from safetensors_core.compat.arguments import (
    check_bytes,
    check_metadata,
    check_path,
    check_tensors,
    not_an_instance,
)
from safetensors_core.compat.settings import is_durable
from safetensors_core.compat.translation import reading, saving, unknown_dtype
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError, SafetensorError
from safetensors_core.framework import TensorSpec as Spec
from safetensors_core.header import parse_header
from safetensors_core.writer import save_stream, stream_to_bytes

__all__ = ["TensorSpec", "deserialize", "serialize", "serialize_file"]

_DTYPES = {
    "bool": Dtype.BOOL,
    "float4_e2m1fn_x2": Dtype.F4,
    "uint8": Dtype.U8,
    "int8": Dtype.I8,
    "float8_e5m2": Dtype.F8_E5M2,
    "float8_e4m3fn": Dtype.F8_E4M3,
    "float8_e8m0fnu": Dtype.F8_E8M0,
    "float8_e4m3fnuz": Dtype.F8_E4M3FNUZ,
    "float8_e5m2fnuz": Dtype.F8_E5M2FNUZ,
    "int16": Dtype.I16,
    "uint16": Dtype.U16,
    "float16": Dtype.F16,
    "bfloat16": Dtype.BF16,
    "int32": Dtype.I32,
    "uint32": Dtype.U32,
    "float32": Dtype.F32,
    "complex64": Dtype.C64,
    "float64": Dtype.F64,
    "int64": Dtype.I64,
    "uint64": Dtype.U64,
}
_UNSIGNED = 1 << 64


class TensorSpec:
    """A tensor for `serialize`: its description, and where its bytes lie in memory.

    The caller keeps the memory alive and unchanged until the call that takes it returns.

    Args:
        dtype: Name of the element type, as PyTorch and NumPy call it (``"float32"``).
        shape: Elements along each dimension. Of ``float4_e2m1fn_x2`` it counts pairs, and the
            attribute `shape` counts elements.
        data_ptr: Address of the first byte.
        data_len: Size, in bytes.

    Raises:
        SafetensorError: The format has no such dtype.
        OverflowError: A number is negative or does not fit 64 bits.

    Example:
        >>> data = (ctypes.c_float * 6)(*range(6))
        >>> address = ctypes.addressof(data)
        >>> TensorSpec(dtype="float32", shape=[2, 3], data_ptr=address, data_len=24).dtype
        'F32'
    """

    __slots__ = ("_data_len", "_data_ptr", "_dtype", "_shape")

    def __init__(self, *, dtype: str, shape: Sequence[int], data_ptr: int, data_len: int) -> None:
        if not isinstance(dtype, str):
            raise not_an_instance("dtype", dtype, "str")
        if dtype not in _DTYPES:
            raise unknown_dtype(dtype)
        self._dtype = _DTYPES[dtype]
        sizes = _sizes(shape)
        if self._dtype is Dtype.F4 and sizes:
            sizes[-1] *= 2
        self._shape = sizes
        self._data_ptr = _unsigned(data_ptr)
        self._data_len = _unsigned(data_len)

    def __repr__(self) -> str:
        return (
            f"TensorSpec(dtype={self.dtype!r}, shape={self.shape}, data_ptr={self.data_ptr}, "
            f"data_len={self.data_len})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    @property
    def dtype(self) -> str:
        """The format's code of the element type."""
        return str(self._dtype)

    @property
    def shape(self) -> list[int]:
        """Elements along each dimension, as the header counts them."""
        return list(self._shape)

    @property
    def data_ptr(self) -> int:
        """Address of the first byte."""
        return self._data_ptr

    @property
    def data_len(self) -> int:
        """Size, in bytes."""
        return self._data_len


def serialize(
    tensor_dict: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Save tensors that lie in memory to bytes.

    Args:
        tensor_dict: Tensors by name.
        metadata: Strings by name to store in the header.

    Returns:
        The bytes of a file.

    Raises:
        SafetensorError: A size does not agree with dtype and shape.
        TypeError: A name, a tensor or a metadata value has another type.

    Example:
        >>> data = (ctypes.c_float * 6)(*range(6))
        >>> spec = {"dtype": "float32", "shape": [2, 3], "data_len": 24}
        >>> len(serialize({"w": TensorSpec(data_ptr=ctypes.addressof(data), **spec)}))
        96
    """
    entries = _entries(tensor_dict, metadata)
    with saving():
        return stream_to_bytes(entries, metadata)


def serialize_file(
    tensor_dict: Mapping[str, TensorSpec],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save tensors that lie in memory to a file.

    Args:
        tensor_dict: Tensors by name.
        filename: Path of the file.
        metadata: Strings by name to store in the header.

    Raises:
        SafetensorError: A size does not agree with dtype and shape, or the file cannot be
            written.
        TypeError: A name, a tensor or a metadata value has another type.

    Example:
        >>> serialize_file({}, tmp_path / "empty.safetensors", {"step": "1"})
    """
    entries = _entries(tensor_dict, metadata)
    check_path(filename)
    with saving():
        save_stream(entries, filename, metadata, fsync=is_durable())


def deserialize(bytes: bytes) -> list[tuple[str, dict[str, Any]]]:  # noqa: A002  # its name there
    """The tensors of a file that is in memory, as bytes.

    Args:
        bytes: The bytes of a file.

    Returns:
        Name, and a dict of ``"shape"``, ``"dtype"`` and ``"data"`` (a bytearray of its own) for
        each tensor, in the order of the file.

    Raises:
        SafetensorError: The bytes are not a valid file.
        TypeError: They are not bytes.

    Example:
        >>> deserialize(serialize({}))
        []
    """
    check_bytes(bytes)
    with reading("deserializing"):
        header = parse_header(bytes)
    view = memoryview(bytes)[header.data_start :]
    _keep_freed_memory()
    return [
        (
            name,
            {
                "shape": list(info.shape),
                "dtype": str(info.dtype),
                "data": bytearray(view[slice(*info.data_offsets)]),
            },
        )
        for name, info in header.tensors.items()
    ]


@cache
def _keep_freed_memory() -> None:
    """Let the C library use blocks below 31 MiB again, instead of taking new pages for each.

    glibc does so once it has seen one of that size be freed: its threshold is dynamic (mallopt(3),
    M_MMAP_THRESHOLD). A bytearray cannot lie in memory of ours.
    """
    _ = bytes(31 * 1024 * 1024)  # zeros that nobody touches cost microseconds


_Entry = tuple[str, Spec, Callable[[], Iterable[memoryview]]]


def _entries(tensors: Mapping[str, TensorSpec], metadata: object) -> Iterator[_Entry]:
    check_tensors(tensors)
    for spec in tensors.values():
        if not isinstance(spec, TensorSpec):
            raise not_an_instance("tensor_dict", spec, "TensorSpec")
    check_metadata(metadata)
    return iter([_entry(name, spec) for name, spec in tensors.items()])


def _entry(name: str, spec: TensorSpec) -> _Entry:
    described = Spec(spec._dtype, tuple(spec.shape))
    elements = math.prod(described.shape)
    if elements * described.dtype.bits >= _UNSIGNED:
        reason = "overflow computing buffer size from shape and/or element type"
        raise SafetensorError(f"Error while serializing: {reason}")
    if elements * described.dtype.bits % 8:
        reason = (
            "The slice is slicing for subbytes dtypes, and the slice does not end up at a byte "
            "boundary, this is invalid."
        )
        raise SafetensorError(f"Error while serializing: {reason}")
    if described.nbytes != spec.data_len:
        reason = "invalid shape, data type, or offset for tensor"
        raise SafetensorError(f"Error while serializing: {reason}")
    if spec.data_len and not spec.data_ptr:
        raise InvalidInputError(f"tensor {name!r}: {spec.data_len:,} bytes at no address")
    return name, described, partial(_memory, spec.data_ptr, spec.data_len)


def _memory(address: int, nbytes: int) -> tuple[memoryview]:
    return (memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B"),)


def _sizes(shape: Any) -> list[int]:
    if not (hasattr(shape, "__len__") and hasattr(shape, "__getitem__")):
        raise not_an_instance("shape", shape, "Sequence")
    return [_unsigned(size) for size in shape]


def _unsigned(number: Any) -> int:
    value = index(number)
    if value < 0:
        raise OverflowError("can't convert negative int to unsigned")
    if value >= _UNSIGNED:
        raise OverflowError("int too big to convert")
    return value
