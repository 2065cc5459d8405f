"""Elements of 4 and 6 bits: several to a byte in the file, one to a byte in an array.

The first element takes the lowest bits of the first byte, and so on upwards: what torch's
``float4_e2m1fn_x2`` and the OCP Microscaling types do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["pack", "unpack"]

Bytes = npt.NDArray[np.uint8]


def pack(array: npt.NDArray[Any], bits: int) -> Bytes:
    """Pack elements that lie in the low bits of one byte each.

    Args:
        array: Elements of one byte, of any shape.
        bits: Width of an element in the result, 4 or 6.

    Returns:
        The packed bytes, flat, in C order; the last byte is filled up with zeros.

    Example:
        >>> pack(np.array([1, 2, 3, 4], dtype=np.uint8), 4)
        array([33, 67], dtype=uint8)
    """
    elements = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    group = 8 // math.gcd(8, bits)
    rows = _in_rows(elements, group)
    packed = np.zeros((len(rows), group * bits // 8), np.uint8)
    for i in range(group):
        element = rows[:, i] & ((1 << bits) - 1)
        for byte, shift in _places(i, bits):
            packed[:, byte] |= element << shift if shift >= 0 else element >> -shift
    return packed.reshape(-1)[: (elements.size * bits + 7) // 8]


def unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    """Undo `pack`.

    Args:
        packed: Packed bytes.
        bits: Width of an element, 4 or 6.
        count: Number of elements.

    Returns:
        The elements, flat, in the low bits of one byte each.

    Example:
        >>> unpack(np.array([33, 67], dtype=np.uint8), 4, 4)
        array([1, 2, 3, 4], dtype=uint8)
    """
    group = 8 // math.gcd(8, bits)
    rows = _in_rows(packed, group * bits // 8)
    elements = np.zeros((len(rows), group), np.uint8)
    for i in range(group):
        for byte, shift in _places(i, bits):
            elements[:, i] |= rows[:, byte] >> shift if shift >= 0 else rows[:, byte] << -shift
    elements &= (1 << bits) - 1
    return elements.reshape(-1)[:count]


def _in_rows(flat: Bytes, length: int) -> Bytes:
    """Rows of the bytes or elements that lie in whole bytes together; zeros fill up the last."""
    missing = -flat.size % length
    if missing:
        flat = np.concatenate((flat, np.zeros(missing, np.uint8)))
    return flat.reshape(-1, length)


def _places(element: int, bits: int) -> list[tuple[int, int]]:
    """The bytes of a row that hold a part of an element, and by how far it is shifted there."""
    begin = element * bits
    return [(byte, begin - 8 * byte) for byte in range(begin // 8, -(-(begin + bits) // 8))]
