"""CRC-32C, the checksum that TensorFlow writes into its checkpoints, computed with NumPy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["crc32c", "mask"]

Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed (RFC 3720, appendix B.4)
_ONES = 0xFFFFFFFF
_BITS = np.arange(32, dtype=np.uint32)
# So many words are taken in one step. Many make a step worth its calls, few make the end short.
_FEW, _MANY = 64, 8192
_LONG = 2**18  # bytes from which many are faster


def crc32c(data: Buffer, crc: int = 0) -> int:
    """The checksum of bytes.

    It is linear, so that words far apart can be summed up side by side: each lane of a vector
    has one word of every row, and the lanes are put together at the end.

    Args:
        data: The bytes.
        crc: The checksum of what came before them.

    Returns:
        The checksum of both together.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
        >>> crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
        True
    """
    octets = np.frombuffer(memoryview(data), np.uint8)
    if octets.size < 4:
        state = crc ^ _ONES
        for octet in octets.tolist():
            state = int(_apply(_passing(1), np.array([state ^ octet], np.uint32))[0])
        return state ^ _ONES
    lanes = _MANY if octets.size >= _LONG else _FEW
    rows = -(-octets.size // (4 * lanes))
    # Zeros in front do not count, as long as the state is taken in with the first byte behind.
    padded = np.zeros(4 * lanes * rows, np.uint8)
    begin = padded.size - octets.size
    padded[begin:] = octets
    padded[begin : begin + 4] ^= np.frombuffer((crc ^ _ONES).to_bytes(4, "little"), np.uint8)
    low, high = _tables(4 * lanes)
    states = np.zeros(lanes, np.uint32)
    for row in padded.view("<u4").reshape(rows, lanes):
        states = low[states & 0xFFFF] ^ high[states >> 16] ^ row
    distance = 4
    while states.size > 1:
        states = _apply(_passing(distance), states[0::2]) ^ states[1::2]
        distance *= 2
    return int(_apply(_passing(4), states)[0]) ^ _ONES


def mask(crc: int) -> int:
    """The form in which TensorFlow stores a checksum, so that it can itself be summed.

    Args:
        crc: The checksum.

    Returns:
        What stands in the file.

    Example:
        >>> hex(mask(0xE3069283))
        '0xc78ab0e5'
    """
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ONES


@functools.cache
def _passing(nbytes: int) -> Words:
    """What becomes of each bit of the state while so many zeros, a power of two, pass by."""
    if nbytes > 1:
        half = _passing(nbytes // 2)
        return _apply(half, half)
    images = []
    for bit in range(32):
        state = 1 << bit
        for _ in range(8):
            state = state >> 1 ^ (_POLYNOMIAL if state & 1 else 0)
        images.append(state)
    return np.array(images, np.uint32)


def _apply(images: Words, states: Words) -> Words:
    bits = states[:, None] >> _BITS & np.uint32(1)
    result: Words = np.bitwise_xor.reduce(bits * images, axis=1)
    return result


@functools.cache
def _tables(nbytes: int) -> tuple[Words, Words]:
    """The same for all values of the lower half of the state, and of the upper half."""
    images = _passing(nbytes)
    halves: list[Any] = []
    for half in (images[:16], images[16:]):
        table = np.zeros(1, np.uint32)
        for image in half:
            table = np.concatenate((table, table ^ image))
        halves.append(table)
    return halves[0], halves[1]
