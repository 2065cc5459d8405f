"""acme: a stand-in for a tensor framework, in about a hundred lines and without dependencies.

It knows nothing of safetensors. Its elements are little-endian on every machine.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any

__all__ = ["Tensor", "itemsize", "tensor"]

# The elements of each dtype, as the module `struct` spells them; complex ones have two parts.
_FORMATS = {
    "bool": "<?",
    "int8": "<b",
    "int16": "<h",
    "int32": "<i",
    "int64": "<q",
    "uint8": "<B",
    "uint16": "<H",
    "uint32": "<I",
    "uint64": "<Q",
    "float16": "<e",
    "float32": "<f",
    "float64": "<d",
    "complex64": "<2f",
    "complex128": "<2d",
}


class Tensor:
    """Elements of one dtype in memory that it owns or borrows.

    Args:
        memory: Bytes that hold the elements. The tensor refers to them and copies nothing.
        dtype: Name of the element type.
        shape: Elements per dimension.
        strides: Bytes from one element to the next, per dimension; those of C order by default.
        offset: Bytes before the first element.

    Example:
        >>> Tensor(memoryview(b"abcdef"), "uint8", (2, 3)).tolist()
        [[97, 98, 99], [100, 101, 102]]
    """

    def __init__(
        self,
        memory: memoryview,
        dtype: str,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
    ) -> None:
        self.memory, self.dtype, self.shape, self.offset = memory, dtype, shape, offset
        self.strides = _c_strides(dtype, shape) if strides is None else strides

    def __repr__(self) -> str:
        return f"acme.tensor({self.tolist()}, {self.dtype!r})"

    def __getitem__(self, row: int | slice) -> Tensor:
        rows, step = range(self.shape[0])[row], self.strides[0]
        if isinstance(rows, int):
            shape, strides, first = self.shape[1:], self.strides[1:], rows
        else:
            shape, first = (len(rows), *self.shape[1:]), rows.start
            strides = (step * rows.step, *self.strides[1:])
        return Tensor(self.memory, self.dtype, shape, strides, self.offset + first * step)

    @property
    def T(self) -> Tensor:  # noqa: N802  # what other frameworks call it
        """The same elements with the dimensions reversed.

        Example:
            >>> tensor([[1, 2], [3, 4]], "int8").T.tolist()
            [[1, 3], [2, 4]]
        """
        return Tensor(self.memory, self.dtype, self.shape[::-1], self.strides[::-1], self.offset)

    def contiguous(self) -> memoryview:
        r"""The bytes of the elements in C order; the tensor's own memory where they lie so.

        Example:
            >>> bytes(tensor([[1, 2], [3, 4]], "int8").T.contiguous())
            b'\x01\x03\x02\x04'
        """
        size = itemsize(self.dtype)
        if self.strides == _c_strides(self.dtype, self.shape):
            return self.memory[self.offset : self.offset + size * prod(self.shape)]
        places = self._places()
        return memoryview(b"".join(self.memory[place : place + size] for place in places))

    def tolist(self) -> Any:
        """The elements as nested lists; of a scalar, its element.

        Example:
            >>> tensor(1.5).tolist()
            1.5
        """
        found = []
        for place in self._places():
            parts = struct.unpack_from(_FORMATS[self.dtype], self.memory, place)
            found.append(complex(*parts) if len(parts) == 2 else parts[0])
        for i, size in reversed(list(enumerate(self.shape))):
            found = [found[n * size : (n + 1) * size] for n in range(prod(self.shape[:i]))]
        return found[0]

    def _places(self) -> list[int]:
        places = [self.offset]
        for size, stride in zip(self.shape, self.strides, strict=True):
            places = [place + i * stride for place in places for i in range(size)]
        return places


def tensor(values: Any, dtype: str = "float32") -> Tensor:
    """A tensor of nested lists of numbers, in memory of its own.

    Example:
        >>> tensor([[1, 2], [3, 4]])
        acme.tensor([[1.0, 2.0], [3.0, 4.0]], 'float32')
    """
    flat, shape = [values], []
    while flat and isinstance(flat[0], list):
        shape.append(len(flat[0]))
        flat = [item for row in flat for item in row]
    if len(flat) != prod(shape):
        raise ValueError("lists of one dimension must have one length")
    if dtype.startswith("complex"):
        flat = [part for value in flat for part in (value.real, value.imag)]
    memory = bytearray(struct.pack(f"<{len(flat)}{_FORMATS[dtype][-1]}", *flat))
    return Tensor(memoryview(memory), dtype, tuple(shape))


def itemsize(dtype: str) -> int:
    """Bytes of one element.

    Example:
        >>> itemsize("complex64")
        8
    """
    return struct.calcsize(_FORMATS[dtype])


def _c_strides(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(itemsize(dtype) * prod(shape[i + 1 :]) for i in range(len(shape)))
