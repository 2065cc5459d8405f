"""Owned memory for what is read, and its second use."""

from __future__ import annotations

import contextlib
import mmap
import sys
import weakref
from collections.abc import Callable
from typing import TypeVar

from safetensors_core.sizes import size_text

__all__ = ["allocate", "zero_bytes"]

T = TypeVar("T")

_HUGE = 2 * 1024 * 1024  # from here on, huge pages fit
_WHOLE = 8 * _HUGE  # from here on, a last huge page that is used in part wastes little
_BLOCK = 128 * 1024  # from here on, page faults cost more than a mapping of its own
_MALLOC_ALIGNMENT = 16  # what the C library guarantees for a bytearray
_KEPT = 64 * 1024 * 1024  # bytes of released blocks that stay with the process
_MAPPED = 32 * 1024 * 1024  # above, glibc gives every object a mapping of its own

# Released blocks, the oldest first, each in a list of its own. A block comes back whenever its last
# user dies, so also in the middle of what is done here: a lock could wait for its own thread. Each
# step is one call instead.
_released: list[list[mmap.mmap]] = []


def allocate(nbytes: int, alignment: int = 1) -> memoryview:
    """Writable memory that is released with the last reference to it.

    New pages cost more than the reading that fills them. The process therefore keeps up to 64 MiB
    of released memory, and gives it out again for the same size.

    Args:
        nbytes: Size in bytes.
        alignment: Bytes of which its address shall be a multiple, up to a page.

    Returns:
        A buffer of exactly that size. Its content may be anything.

    Raises:
        MemoryError: The system gives no more.

    Example:
        >>> len(allocate(1000, alignment=64))
        1000
    """
    if nbytes < _BLOCK:
        return _small(nbytes, alignment)
    import ctypes  # small files need none of it

    # Linux lets a mapping begin with a huge page only where its size is a multiple of one. The
    # small pages before the first and after the last would take longer than the waste does.
    unit = mmap.PAGESIZE if nbytes < _WHOLE else _HUGE
    size = -(-nbytes // unit) * unit
    block = _taken(size) or _new(size)
    # The buffer itself, and whatever a framework makes of it, keeps this object alive.
    owner = (ctypes.c_char * size).from_buffer(block)
    weakref.finalize(owner, _release, [block]).atexit = False
    return memoryview(owner).cast("B")[:nbytes]


def zero_bytes(nbytes: int) -> bytes:
    """A bytes object of zeros, for one who fills it before anybody else has it.

    Args:
        nbytes: Size in bytes.

    Returns:
        The object. Where it is large, the system is asked to give it huge pages.

    Raises:
        MemoryError: The system gives no more.

    Example:
        >>> zero_bytes(3) == bytes(3)
        True
    """
    zeros = _obtained(nbytes, lambda: bytes(nbytes))  # no page is there before it is written to
    if nbytes > _MAPPED and hasattr(mmap, "MADV_HUGEPAGE"):
        import ctypes

        madvise = ctypes.pythonapi["madvise"]
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        first = ctypes.cast(ctypes.c_char_p(zeros), ctypes.c_void_p).value or 0
        begin = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        # Where a kernel has no huge pages, it says so, and all else stays as it is.
        madvise(begin, first + nbytes - begin, mmap.MADV_HUGEPAGE)
    return zeros


def _small(nbytes: int, alignment: int) -> memoryview:
    if alignment <= _MALLOC_ALIGNMENT:
        return memoryview(bytearray(nbytes))
    import ctypes

    spare = bytearray(nbytes + alignment)
    address = ctypes.addressof(ctypes.c_char.from_buffer(spare))
    begin = -address % alignment
    return memoryview(spare)[begin : begin + nbytes]


def _new(size: int) -> mmap.mmap:
    block = _obtained(size, lambda: _map(size))
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _obtained(nbytes: int, obtain: Callable[[], T]) -> T:
    """New memory, for which released blocks are given back where there is no other."""
    try:
        return obtain()
    except (OSError, MemoryError):
        _released.clear()
    try:
        return obtain()
    except (OSError, MemoryError) as error:
        raise MemoryError(f"the system has no {size_text(nbytes)} of memory left") from error


def _map(size: int) -> mmap.mmap:
    # Private, because the kernel gives huge pages to shared memory only where it is told to.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _taken(size: int) -> mmap.mmap | None:
    for found in reversed(tuple(_released)):
        if len(found[0]) == size:
            with contextlib.suppress(ValueError):  # another thread took it
                _released.remove(found)
                if _is_unused(found):
                    return found[0]
    return None


def _is_unused(found: list[mmap.mmap]) -> bool:
    """Whether nothing but this list refers to the block in it.

    The collector announces the end of what hangs in a cycle before it runs the `__del__` methods
    of that cycle. They may still use the memory, and even keep it.
    """
    [references] = map(sys.getrefcount, found)
    return references == 2  # the list, and the call


def _release(found: list[mmap.mmap]) -> None:
    if len(found[0]) > _KEPT:
        return
    _released.append(found)
    while sum(len(block) for [block] in tuple(_released)) > _KEPT:
        with contextlib.suppress(IndexError):  # another thread has made room
            del _released[0]
