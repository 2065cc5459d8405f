"""The encoding of protocol buffers, as far as the messages of a TensorFlow checkpoint need it."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["as_signed", "read_fields", "read_varint"]


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven of them to a byte, the lowest first.

    Args:
        data: The bytes.
        position: Where it begins.

    Returns:
        The number, and the position behind it.

    Raises:
        ValueError: The bytes end before it does, or it is too long.

    Example:
        >>> read_varint(bytes([0xAC, 0x02]), 0)
        (300, 2)
    """
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it ends in the middle of a number")
        octet = data[position]
        position += 1
        number |= (octet & 0x7F) << shift
        if octet < 0x80:
            return number, position
    raise ValueError("a number of it is too long")


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message, one by one.

    Args:
        message: Its bytes.

    Yields:
        The number of each field with its value: a number that is not negative, or the bytes of
        a text or of another message.

    Raises:
        ValueError: It is no whole message.

    Example:
        >>> list(read_fields(bytes([0x08, 0x03, 0x12, 0x02, 0x68, 0x69])))
        [(1, 3), (2, b'hi')]
    """
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            number, position = read_varint(message, position)
            yield tag >> 3, number
            continue
        if kind == 2:
            length, position = read_varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of it has the unknown kind {kind}")
        value = message[position : position + length]
        if len(value) < length:
            raise ValueError("a field of it is cut off")
        position += length
        yield tag >> 3, value if kind == 2 else int.from_bytes(value, "little")


def as_signed(number: int) -> int:
    """A number of 64 bits that may be negative, as protocol buffers write an ``int64``.

    Args:
        number: What `read_varint` gave.

    Returns:
        The number with its sign.

    Example:
        >>> as_signed(2**64 - 1)
        -1
    """
    return number - 2**64 if number >= 2**63 else number
