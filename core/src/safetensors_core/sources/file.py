"""A file read at positions, in parallel, into memory that the caller owns."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from safetensors_core.errors import ClosedFileError, InvalidInputError
from safetensors_core.sources.base import ByteSource
from safetensors_core.threads import share_work

__all__ = ["MAX_BUFFERS", "FileSource", "for_one_call", "open_regular", "remaining"]

_JOB = 8 * 1024 * 1024  # bytes that one thread reads at a time
_PARALLEL = 2 * _JOB  # below this, starting threads costs more than it saves
_PIECE = 256 * 1024 * 1024  # macOS refuses 2 GiB in one call; an interrupt waits for one piece

#: Buffers that one system call takes: IOV_MAX on Linux and macOS.
MAX_BUFFERS = 1024


class FileSource(ByteSource):
    """A file read with `preadv`: owned memory, no page faults on the file afterwards.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.

    Example:
        >>> from safetensors_core import save
        >>> path = tmp_path / "empty.safetensors"
        >>> _ = path.write_bytes(save({}))
        >>> FileSource(path).read_header().tensors
        {}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.location = os.fsdecode(path)
        fd, self.size = open_regular(path)
        self._descriptor: _Descriptor | None = _Descriptor(fd)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Read bytes at a position."""
        self._read(self._opened(), offset, [view])

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        """Read with several threads where there is enough to read.

        Ranges that touch in the file are read by one system call, wherever their buffers are.
        """
        descriptor = self._opened()
        if sum(len(view) for _, view in ranges) < _PARALLEL:
            for offset, views in _jobs(ranges):
                self._read(descriptor, offset, views)
        else:
            share_work(lambda job: self._read(descriptor, *job), _jobs(ranges))

    def close(self) -> None:
        """Close the file once the reads that are under way have ended."""
        self._descriptor = None

    def _opened(self) -> _Descriptor:
        descriptor = self._descriptor  # read once: another thread may close the file
        if descriptor is None:
            raise ClosedFileError(f"{self.location} is closed")
        return descriptor

    def _read(self, descriptor: _Descriptor, offset: int, views: list[memoryview]) -> None:
        views = remaining(views, 0)
        while views:
            try:
                count = os.preadv(descriptor.fd, for_one_call(views), offset)
            except OSError as error:
                error.filename = self.location
                raise
            if count == 0:
                raise OSError(
                    errno.EIO, f"the file ended at byte {offset:,} while it was read", self.location
                )
            offset += count
            views = remaining(views, count)


class _Descriptor:
    """A file descriptor that is closed with its last user.

    A number that is closed under a running read may already stand for another file.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def open_regular(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Open a regular file for reading.

    Args:
        path: The file.

    Returns:
        Its descriptor, which the caller closes, and its size in bytes.

    Raises:
        OSError: It cannot be opened, or is a folder.
        InvalidInputError: It is a pipe, a socket or a device.

    Example:
        >>> open_regular(os.devnull)
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: /dev/null is not a regular file
    """
    # Without O_NONBLOCK, opening a pipe that nobody writes to would hang.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return fd, status.st_size
    os.close(fd)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise InvalidInputError(f"{os.fspath(path)} is not a regular file")


def _jobs(ranges: Iterable[tuple[int, memoryview]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Cut and join ranges into reads of one contiguous range of the file each."""
    start = offset = 0
    views: list[memoryview] = []
    for position, view in ranges:
        left = len(view)
        while left:
            full = offset - start >= _JOB or len(views) == MAX_BUFFERS
            if views and (position != offset or full):
                yield start, views
                views = []
            if not views:
                start = position
            room = start + _JOB - position
            if left <= room:
                views.append(view)
                offset = position + left
                break
            views.append(view[:room])
            view = view[room:]
            left -= room
            offset = position = position + room
    if views:
        yield start, views


def for_one_call(views: list[memoryview]) -> list[memoryview]:
    """The part of some buffers that one system call may be given.

    Args:
        views: Buffers to read or write one after the other.

    Returns:
        All of them, or the beginning of the first where they are large.

    Example:
        >>> for_one_call([memoryview(b"abc")])[0].nbytes
        3
    """
    return views if sum(map(len, views)) <= _PIECE else [views[0][:_PIECE]]


def remaining(views: list[memoryview], count: int) -> list[memoryview]:
    """What a read or write that moved some bytes has left.

    Args:
        views: The buffers that it was given.
        count: Bytes that it moved.

    Returns:
        The buffers without those bytes, and without empty ones in front.

    Example:
        >>> [bytes(view) for view in remaining([memoryview(b"abc"), memoryview(b"de")], 4)]
        [b'e']
    """
    if count == sum(map(len, views)):
        return []
    for i, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[i + 1 :]]
        count -= len(view)
    return []
