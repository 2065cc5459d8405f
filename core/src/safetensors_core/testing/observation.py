"""Seeing a tensor from the outside: its numbers, and where its memory lies."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Borrowed", "address", "difference", "seen"]


def seen(tensor: Any) -> Iterator[list[Any]]:
    """The numbers of a tensor, by what it offers itself: not by its plugin.

    Some frameworks show the bits of a type for which Python has no number. Then they may show its
    numbers where they convert it.

    Args:
        tensor: A tensor of any framework.

    Yields:
        Its elements in one flat list, once for each way to see them that works.

    Example:
        >>> list(seen(memoryview(b"ab"))), list(seen(object()))
        ([[97, 98]], [])
    """
    for look in _WAYS:
        # What a framework raises where it has no such method is its own.
        with contextlib.suppress(Exception):
            yield _flat(look(tensor))


_WAYS: tuple[Callable[[Any], Any], ...] = (
    lambda tensor: tensor.tolist(),
    lambda tensor: tensor.numpy().tolist(),
    lambda tensor: tensor.astype("float32").tolist(),
)


def _flat(values: Any) -> list[Any]:
    flat: list[Any] = values if isinstance(values, list) else [values]
    while flat and isinstance(flat[0], list):
        flat = [leaf for value in flat for leaf in value]
    return flat


class _Buffer(ctypes.Structure):
    """`Py_buffer` of CPython's C API, of which only the first field is read."""

    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 256))


def address(buffer: Any) -> int:
    """Where the memory of a contiguous buffer begins.

    Args:
        buffer: An object with the buffer protocol.

    Returns:
        The address of its first byte.

    Example:
        >>> data = bytearray(8)
        >>> address(memoryview(data)[3:]) - address(data)
        3
    """
    view = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(view), 0)
    try:
        return int(view.buf or 0)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


def difference(found: bytes | bytearray, expected: bytes | bytearray) -> str:
    """Where two byte strings differ.

    Comparing them in an assertion would let pytest list all differences, which takes hours for the
    bytes of a tensor; it does so on continuous integration, and with ``-v``.

    Args:
        found: The bytes to look at.
        expected: What they should be.

    Returns:
        Where they first differ, and by what; nothing if they are equal.

    Example:
        >>> difference(b"abc", b"abd"), difference(b"", b"a"), difference(b"a", b"a")
        ('byte 2 is 63, not 64', '0 bytes, not 1', '')
    """
    if found == expected:
        return ""
    if len(found) != len(expected):
        return f"{len(found)} bytes, not {len(expected)}"
    first = next(i for i in range(len(found)) if found[i] != expected[i])
    return f"byte {first} is {found[first]:02x}, not {expected[first]:02x}"


class Borrowed:
    """Memory that is lent to a framework, and that tells whether somebody still holds it.

    Args:
        data: What it holds at first.
        shift: Bytes by which it begins behind a multiple of 4096.

    Attributes:
        view: The writable buffer to lend; None after `give_up`.

    Example:
        >>> memory = Borrowed(b"abc")
        >>> tensor = memory.view[1:]
        >>> memory.give_up()
        >>> memory.held, bytes(tensor)
        (True, b'bc')
        >>> del tensor
        >>> memory.held
        False
    """

    def __init__(self, data: bytes, shift: int = 0) -> None:
        owner = (ctypes.c_char * (len(data) + shift + 4096))()
        begin = -ctypes.addressof(owner) % 4096 + shift
        self._owner = weakref.ref(owner)
        self.view: memoryview | None = memoryview(owner).cast("B")[begin : begin + len(data)]
        self.view[:] = data
        self.address = ctypes.addressof(owner) + begin

    def give_up(self) -> None:
        """Forget the memory: from now on, only its borrowers keep it."""
        self.view = None

    @property
    def held(self) -> bool:
        """Whether somebody keeps the memory."""
        gc.collect()
        return self._owner() is not None
