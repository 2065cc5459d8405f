"""Elements of 4 and 6 bits: several to a byte in the file, one to a byte in an array.

The first element takes the lowest bits of the first byte, and so on upwards: what torch's
``float4_e2m1fn_x2`` and the OCP Microscaling types do.
"""

from __future__ import annotations

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
    group = 8 // np.gcd(8, bits)  # elements that fill whole bytes together
    elements = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    padded = np.zeros(-(-elements.size // group) * group, np.uint32)
    padded[: elements.size] = elements
    shifts = np.arange(group, dtype=np.uint32) * bits
    words = np.bitwise_or.reduce(padded.reshape(-1, group) << shifts, axis=1)
    columns = [(words >> (8 * i)).astype(np.uint8) for i in range(group * bits // 8)]
    return np.stack(columns, axis=1).reshape(-1)[: (elements.size * bits + 7) // 8]


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
    group = 8 // np.gcd(8, bits)
    width = group * bits // 8
    padded = np.zeros(-(-packed.size // width) * width, np.uint32)
    padded[: packed.size] = packed
    places = np.arange(width, dtype=np.uint32) * 8
    words = np.bitwise_or.reduce(padded.reshape(-1, width) << places, axis=1)
    mask = np.uint32((1 << bits) - 1)
    columns = [((words >> (bits * i)) & mask).astype(np.uint8) for i in range(group)]
    return np.stack(columns, axis=1).reshape(-1)[:count]
