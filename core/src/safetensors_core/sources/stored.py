"""Files of the other file systems of fsspec, which know of sizes and ranges and little else."""

from __future__ import annotations

import errno
import threading
import weakref
from typing import Any

from safetensors_core.background import Workers
from safetensors_core.errors import (
    FileChangedError,
    InvalidInputError,
    RemoteError,
    SafetensorError,
)
from safetensors_core.sources.attempts import Interrupted, stall_timeout
from safetensors_core.sources.connection import Connection
from safetensors_core.sources.parts import Part
from safetensors_core.sources.remote_source import RemoteSource
from safetensors_core.sources.urls import shown_within

__all__ = ["StoredFile", "translated"]

# What file systems call the things that change with the content of a file.
_VERSION = {
    *("checksum", "content_md5", "crc", "crc32c", "created", "date_time", "etag", "generation"),
    *("ino", "last_modified", "lastmodified", "md5", "md5hash", "modified", "mtime", "sha"),
    *("updated", "version_id", "versionid"),
}
_SLOWEST = 16 * 1024  # bytes per second below which a read is taken for one that never ends

# File systems without an event loop may not be used by two threads at once.
_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


class StoredFile(RemoteSource):
    """A file of any file system of fsspec.

    What a file system says of the file before and after the reads of one call must be the same.

    Args:
        connection: The file system and the path.
        location: The URL, as errors show it.

    Example:
        >>> from safetensors_core import read_header
        >>> read_header("gs://bucket/model.safetensors")  # doctest: +SKIP
    """

    def __init__(self, connection: Connection, location: str) -> None:
        super().__init__(location)
        self._connection = connection

    async def _attempt(self, part: Part) -> None:
        filesystem, path = self._connection.get()
        if self._size is None:
            await self._look()
        assert self._size is not None
        part.cut(self._size)
        if part.missing:
            begin, end = part.position, part.end
            data = await self._call(filesystem, "cat_file", path, start=begin, end=end)
            if len(data) > end - begin:
                detail = f"{end - begin:,} bytes were asked for and {len(data):,} came"
                raise RemoteError(detail, self.location)
            part.put(data)
            if part.missing:
                await self._look()  # it may be shorter than it was

    async def _confirm(self, _: Part) -> None:
        try:
            await self._look()
        except FileNotFoundError:
            raise FileChangedError("it was deleted while it was read", self.location) from None

    async def _look(self) -> None:
        """Ask what there is, and not what the file system remembers."""
        filesystem, path = self._connection.get()
        filesystem.invalidate_cache(path)
        filesystem.invalidate_cache(filesystem._parent(path))
        info = await self._call(filesystem, "info", path)
        if info.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, "this is a folder", self.location)
        size = info.get("size")
        if size is None:
            raise RemoteError("its file system does not say how long it is", self.location)
        version = {name: info[name] for name in info if name.lower() in _VERSION}
        self._saw(int(size), version)

    async def _call(self, filesystem: Any, method: str, path: str, **given: int) -> Any:
        """Call a method of the file system, and wait for it no longer than it may take."""
        import asyncio

        if filesystem.async_impl:
            answer = getattr(filesystem, f"_{method}")(path, **given)
        else:
            answer = _one_by_one(filesystem, method, path, given)
        wanted = given["end"] - given["start"] if given else 0
        try:
            return await asyncio.wait_for(answer, stall_timeout() + wanted / _SLOWEST)
        except Exception as error:
            raise translated(error, self.location) from error


async def _one_by_one(filesystem: Any, method: str, path: str, given: dict[str, int]) -> Any:
    """Call a method in a thread of its own, in which it may block, and no other one beside it."""
    import asyncio

    with _locks_lock:
        lock = _locks.setdefault(filesystem, threading.Lock())

    def call(path: str) -> Any:
        with lock:
            return getattr(filesystem, method)(path, **given)

    with Workers(call, 1) as workers:
        return await asyncio.wrap_future(workers.submit(path))


def translated(error: Exception, location: str) -> Exception:
    """An error of a file system as an error of this package.

    Args:
        error: What the file system raised.
        location: The URL, as errors show it.

    Returns:
        The error to raise; `Interrupted` where a further try may do better.

    Example:
        >>> translated(FileNotFoundError("bucket/a"), "s3://bucket/a")
        FileNotFoundError(2, 'there is no such file')
        >>> translated(ConnectionResetError("reset by peer"), "s3://bucket/a")
        Interrupted('ConnectionResetError: reset by peer')
    """
    import asyncio

    text = shown_within(f"{type(error).__name__}: {error}")
    result: Exception = RemoteError(text, location)
    if isinstance(error, SafetensorError):
        result = error
    elif isinstance(error, (FileNotFoundError, NotADirectoryError)):
        result = FileNotFoundError(errno.ENOENT, "there is no such file", location)
    elif isinstance(error, PermissionError):
        text = shown_within(f"the storage does not let you read it: {error.strerror or error}")
        result = PermissionError(errno.EACCES, text, location)
    elif isinstance(error, IsADirectoryError):
        result = IsADirectoryError(errno.EISDIR, "this is a folder", location)
    elif isinstance(error, TypeError):  # some look at their settings when they connect
        text = f"{location} cannot be opened with these storage options: {text}"
        result = InvalidInputError(text)
    elif isinstance(error, asyncio.TimeoutError):  # most have no text
        result = Interrupted("the storage sent nothing for too long")
    elif isinstance(error, OSError) or type(error).__module__.startswith("aiohttp."):
        # Of what is no OSError, aiohttp's errors are about connections, too.
        result = Interrupted(text)
    return result
