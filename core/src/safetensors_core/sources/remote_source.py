"""`RemoteSource`: what all remote files share, whatever brings their bytes."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors_core.errors import (
    ClosedFileError,
    FileChangedError,
    InvalidInputError,
    RemoteError,
)
from safetensors_core.sources.attempts import Attempts, Interrupted, connections
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.parts import Part, plan_parts

if TYPE_CHECKING:
    import asyncio

__all__ = ["RemoteSource"]

T = TypeVar("T")


class RemoteSource(ByteSource):
    """A file that is read over a network, and not before it must be.

    The first read brings the size of the file, what tells its versions apart, and its beginning,
    which is kept: a header that fits into `first_read` costs one request.

    Args:
        location: The URL, as errors show it.

    Attributes:
        largest: The most bytes that the file may have; None where any size will do. A larger one
            is refused before its bytes are read.

    Example:
        >>> issubclass(RemoteSource, ByteSource)
        True
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.largest: int | None = None
        self._size: int | None = None
        self._version: object = None
        self._beginning: memoryview | None = None
        self._closed = False
        self._first = threading.Lock()

    @abstractmethod
    async def _attempt(self, part: Part) -> None:
        """Fetch what a part misses, or some of it; `_saw` is told what the answer says of the file.

        It runs in the event loop of fsspec.

        Raises:
            Interrupted: It failed and may be tried again.
        """

    async def _confirm(self, _: Part) -> None:
        """Find out whether the file changed, for storage whose answers do not say it."""

    @property
    def size(self) -> int:  # type: ignore[override]  # known once the first read has run
        """Size of the file in bytes. Asking for it reads the beginning of the file."""
        if self._beginning is None:
            self._check_open()
            with self._first:
                if self._beginning is None:
                    self._beginning = self._read_beginning()
        assert self._size is not None
        return self._size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Read bytes at a position, long ranges in parallel."""
        self.read_ranges([(offset, view)])

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        """Read in parallel; ranges that are close to each other come in one request."""
        self._check_open()
        if not ranges:
            return
        size, beginning = self.size, self._beginning or b""
        wanted = []
        for offset, view in ranges:
            stop = offset + len(view)
            if stop > size:
                raise RemoteError(
                    f"bytes {offset:,} to {stop:,} were asked for, and the file has {size:,}",
                    self.location,
                )
            if stop <= len(beginning) or not view:
                view[:] = beginning[offset:stop]
            else:
                wanted.append((offset, view))
        if wanted:
            self._fetch(plan_parts(wanted))

    def close(self) -> None:
        """Refuse further reads. Connections belong to fsspec, which uses them again."""
        self._closed = True
        if self._beginning is not None:
            self._beginning = memoryview(b"")

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedFileError(f"{self.location} is closed")

    def _read_beginning(self) -> memoryview:
        # What an earlier try saw may be of a file that has been replaced.
        self._size = None
        buffer = memoryview(bytearray(max(1, self.first_read)))
        self._fetch([Part(0, [buffer])])
        return buffer[: self._size].toreadonly()

    def _saw(self, size: int, version: object) -> None:
        """Compare what an answer says of the file with what the first one said."""
        if self._size is None:
            if self.largest is not None and size > self.largest:
                raise InvalidInputError(
                    f"{self.location} has {size:,} bytes, and at most {self.largest:,} are read"
                )
            self._size, self._version = size, version
        elif size != self._size:
            raise FileChangedError(
                f"it had {self._size:,} bytes and now has {size:,}: it changed while it was read. "
                "Open it again",
                self.location,
            )
        elif version != self._version:
            raise FileChangedError(
                f"it changed while it was read (version {self._version}, now {version}). "
                "Open it again",
                self.location,
            )

    def _fetch(self, parts: list[Part]) -> None:
        _run(self._fetch_all(parts))

    async def _fetch_all(self, parts: list[Part]) -> None:
        import asyncio

        waiting = iter(parts)
        # All take from one iterator: who is done with a part begins the next one.
        workers = [
            asyncio.ensure_future(self._work(waiting))
            for _ in range(min(connections(), len(parts)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await self._persist(Part(0, []), self._confirm)

    async def _work(self, waiting: Iterator[Part]) -> None:
        for part in waiting:
            await self._persist(part, self._attempt)

    async def _persist(
        self, part: Part, attempt: Callable[[Part], Coroutine[Any, Any, None]]
    ) -> None:
        """Try until a part has all its bytes, or until there have been too many failures."""
        import asyncio

        attempts = Attempts(self.location)
        while True:
            before = part.position
            try:
                await attempt(part)
                if not part.missing:
                    return
                error = Interrupted(f"the answer ended {part.missing:,} bytes early")
            except Interrupted as interrupted:
                error = interrupted
            await asyncio.sleep(attempts.wait_after(error, part.position - before))


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the event loop of fsspec, and wait for its end.

    Args:
        coroutine: What to run. It is cancelled where the wait is interrupted.

    Returns:
        Its result.
    """
    import asyncio

    from fsspec import asyn

    # In a forked process, the thread of the loop is gone; not all versions of fsspec notice that.
    if asyn.iothread[0] is not None and not asyn.iothread[0].is_alive():
        asyn.reset_lock()
    loop: asyncio.AbstractEventLoop = asyn.get_loop()
    if asyncio._get_running_loop() is loop:
        coroutine.close()
        raise RuntimeError("a remote file cannot be read in the event loop of fsspec itself")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
