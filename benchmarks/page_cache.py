"""Putting a file into the page cache, taking it out, and asking how much of it is there."""

from __future__ import annotations

import ctypes
import mmap
import os

__all__ = ["drop", "fill", "resident"]

_CHUNK = 4 * 1024 * 1024


def fill(path: str) -> None:
    """Read a file once, so that all of it is in the page cache.

    Args:
        path: The file.
    """
    chunk = memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        while file.readinto(chunk):
            pass


def drop(path: str) -> None:
    """Ask the kernel to forget the pages of a file; what the device caches itself stays.

    Args:
        path: The file, which no process may have mapped and read at that time.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # a page that is not on disk yet cannot be dropped
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def resident(path: str) -> float | None:
    """Part of a file that is in the page cache, from 0 to 1.

    Args:
        path: The file.

    Returns:
        That part, or None where the system has no `mincore`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        return None
    with open(path, "rb") as file:
        # Copy-on-write only because ctypes takes the address of nothing that is read-only.
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    size = len(pages)
    count = -(-size // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * count)()
    first = ctypes.c_char.from_buffer(pages)
    failed = libc.mincore(
        ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), ctypes.byref(states)
    )
    error = ctypes.get_errno()
    del first
    pages.close()
    if failed:
        raise OSError(error, os.strerror(error), path)
    return bytes(state & 1 for state in states).count(1) / count
