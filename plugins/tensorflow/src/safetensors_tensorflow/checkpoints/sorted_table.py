"""Sorted tables of keys and values, the format of the ``.index`` file of a TensorFlow checkpoint.

A table is a row of blocks. At its end, the footer says where the index block is, whose values say
where the data blocks are. Each block carries a checksum.
"""

from __future__ import annotations

from safetensors_tensorflow.checkpoints.crc32c import crc32c, mask
from safetensors_tensorflow.checkpoints.recognition import TABLE_MAGIC
from safetensors_tensorflow.checkpoints.wire import read_varint

__all__ = ["read_table"]

_FOOTER = 48  # bytes: two handles, filled up with zeros, and the magic number
_TRAILER = 5  # bytes after each block: how it is compressed, and its checksum


def read_table(data: bytes) -> dict[bytes, bytes]:
    """All keys and values of a table.

    Args:
        data: The whole file.

    Returns:
        The values by key, in the order of the keys.

    Raises:
        ValueError: It is damaged, or compressed.

    Example:
        >>> read_table(b"")
        Traceback (most recent call last):
        ValueError: it does not end as such a file does
    """
    if len(data) < _FOOTER or not data.endswith(TABLE_MAGIC):
        raise ValueError("it does not end as such a file does")
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0)  # of a block that TensorFlow leaves empty
    place, _ = _handle(footer, position)
    table: dict[bytes, bytes] = {}
    last = -1
    for _, value in _entries(_block(data, *place)):
        place, _ = _handle(value, 0)
        # Blocks in their order, none twice: a small file cannot hold more than its size.
        if place[0] <= last:
            raise ValueError("its blocks are not in order")
        last = place[0]
        table.update(_entries(_block(data, *place)))
    return table


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Offset and length of a block, and the position behind them."""
    offset, position = read_varint(data, position)
    length, position = read_varint(data, position)
    return (offset, length), position


def _block(data: bytes, offset: int, length: int) -> bytes:
    end = offset + length
    if end + _TRAILER > len(data) - _FOOTER:
        raise ValueError(f"a block of it would end at byte {end:,} of {len(data):,}")
    if mask(crc32c(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise ValueError(f"the block at byte {offset:,} does not match its checksum")
    if data[end]:
        raise ValueError("it is compressed, which TensorFlow does not do with its checkpoints")
    return data[offset:end]


def _entries(block: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of a block. A key says how much of its beginning the last key has, too."""
    end = len(block) - 4 * (int.from_bytes(block[-4:], "little") + 1)
    if end < 0:
        raise ValueError("a block of it is too short")
    entries = []
    key = b""
    position = 0
    while position < end:
        shared, position = read_varint(block, position)
        own, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or position + own + length > end:
            raise ValueError("an entry of it leaves its block")
        key = key[:shared] + block[position : position + own]
        position += own
        entries.append((key, block[position : position + length]))
        position += length
    return entries
