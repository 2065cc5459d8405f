"""Reading past the page cache: for what it does not hold, and could not keep."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from mmap import PAGESIZE

from safetensors_core.sources import ByteSource, FileSource, Segment
from safetensors_core.sources.local import is_network_file
from safetensors_core.sources.mapped import map_privately
from safetensors_core.transfer.plan import PAGE

__all__ = ["DirectFile", "open_direct"]

# EFAULT is also said of memory that belongs to a driver: the disk cannot write to it, others can.
_REFUSALS = {errno.EINVAL, errno.EFAULT, errno.EOPNOTSUPP}

_MEMORY = "/proc/meminfo"
_LIMIT = "/sys/fs/cgroup/memory.max"  # of a container; what its files have in the cache counts
_SAMPLES = 512  # pages that stand for all: asking for each of 10 GB would take 100 ms


class DirectFile:
    """A file that the disk writes into the caller's memory: no copy, nothing left in the cache.

    Args:
        source: The file. It may be closed or replaced later.

    Raises:
        OSError: The file system has no direct reads, or the system no ``/proc``.

    Example:
        >>> from safetensors_core.transfer.host import HostAccelerator
        >>> slot = HostAccelerator().pin(8192).view
        >>> if DirectFile(FileSource(model_path)).read(slot, Segment(8, 8, 9)):
        ...     assert slot[8:9] == b"{"
    """

    def __init__(self, source: FileSource) -> None:
        self.location = source.location
        # The same file whatever its path leads to by now, with flags that the source does not get.
        path = f"/proc/self/fd/{source._opened().fd}"
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECT", 0))
        self._refused = False

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read(self, view: memoryview, segment: Segment) -> bool:
        """Read the pages of the file in which a segment lies.

        Args:
            view: Memory whose pages are filled: also before and behind the segment.
            segment: What to read; in its page of the file it begins where it does in memory.

        Returns:
            Whether it was read. What was not is to be read in the usual way, which may work, and
            otherwise says why not.

        Raises:
            OSError: The storage failed.
        """
        offset, begin, end = segment
        lead = offset % PAGE
        offset, begin, stop = offset - lead, begin - lead, -(-end // PAGE) * PAGE
        while begin < end and not self._refused:
            try:
                count = os.preadv(self._fd, [view[begin:stop]], offset)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    error.filename = self.location
                    raise
                self._refused = True
                return False
            if count == 0:
                return False
            offset += count
            begin += count
        return begin >= end


def open_direct(source: ByteSource, segments: Sequence[Segment]) -> DirectFile | None:
    """Open a file for direct reads, where these are better for this load and for the next one.

    They spare the processor a copy, but leave nothing in the page cache, from which a load is
    several times as fast. So they are for local files that are not there, and would hardly be
    there the next time: one that fills more than half of the memory drives out most of what else
    is cached, and goes itself when programs need memory.

    Args:
        source: The file.
        segments: What will be read of it, in its order.

    Returns:
        The file; None where it is to be read in the usual way.

    Raises:
        ClosedFileError: It is closed.

    Example:
        >>> open_direct(FileSource(model_path), [Segment(8, 8, 9)]) is None
        True
    """
    if not hasattr(os, "O_DIRECT") or not isinstance(source, FileSource):
        return None
    if sum(end - begin for _, begin, end in segments) <= _available_memory() // 2:
        return None
    fd = source._opened().fd
    begin = segments[0].offset
    end = segments[-1].offset + segments[-1].end - segments[-1].begin
    try:
        return None if is_network_file(fd) or _is_cached(fd, begin, end) else DirectFile(source)
    except (OSError, ValueError):  # a file that became shorter cannot be mapped whole
        return None


def _available_memory() -> int:
    """Bytes that files could have in the page cache; more than any file has if unknown."""
    found = [1 << 63]
    try:
        with open(_MEMORY, encoding="ascii") as lines:
            found += [int(line.split()[1]) * 1024 for line in lines if "MemAvailable:" in line]
        with open(_LIMIT, encoding="ascii") as limit:
            found.append(int(limit.read()))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        pass
    return min(found)


def _is_cached(fd: int, begin: int, end: int) -> bool:
    """Whether more than an eighth of a range of a file is in the page cache.

    With more, the usual way is as fast. True for files that the process neither owns nor may
    write to: of these the system does not tell it.
    """
    import ctypes

    memory = ctypes.c_char.from_buffer(map_privately(fd, end))
    first = ctypes.addressof(memory)
    mincore = ctypes.CDLL(None).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    state = ctypes.c_ubyte()
    samples = range(begin, end, max(PAGESIZE, (end - begin) // _SAMPLES))
    cached = 0
    for position in samples:
        failed = mincore(first + position // PAGESIZE * PAGESIZE, 1, ctypes.byref(state))
        cached += 1 if failed else state.value & 1
    return cached * 8 > len(samples)
