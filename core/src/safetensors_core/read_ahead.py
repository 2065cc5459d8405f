"""Reading what is wanted next while something else is done with what was read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from safetensors_core.background import Workers
from safetensors_core.header import TensorInfo
from safetensors_core.sources import ByteSource, MappedSource, MemorySource

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Self

__all__ = ["ReadAhead", "windows"]

Part = tuple[ByteSource, Mapping[str, TensorInfo]]
Fetched = tuple[memoryview, Mapping[str, TensorInfo]]

# What is in memory, or comes there when it is touched. Frameworks know these by their types.
_AT_HAND = (MappedSource, MemorySource)


class ReadAhead:
    """Parts of files, of which those behind the one in use are read already.

    Nothing is read before a framework fetches the first part whole: one that needs no data, or
    only pieces of it, causes no reading. Files that are mapped or in memory are left as they are.

    Args:
        parts: Files and the tensors to read from each.
        ahead: How many parts to read before they are asked for. So many are held in memory beside
            the one in use.

    Example:
        >>> from safetensors_core import Dtype, save
        >>> from safetensors_core.sources import MemorySource
        >>> source = MemorySource(save({"a": np.ones(2), "b": np.zeros(3)}))
        >>> infos = source.read_header().tensors
        >>> parts = [(source, {name: info}) for name, info in infos.items()]
        >>> with ReadAhead(parts, ahead=1) as ready:
        ...     [len(part.fetch(infos)[0]) for part, infos in ready]
        [16, 24]
    """

    def __init__(self, parts: Sequence[Part], ahead: int) -> None:
        self._parts = parts
        self._ahead = ahead
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._workers.close()
        self._futures.clear()

    def _start(self) -> None:
        self._process = os.getpid()
        self._workers = Workers(self._fetch, self._ahead + 1)
        self._futures: dict[tuple[int, int], Future[Fetched]] = {}

    def __iter__(self) -> Iterator[Part]:
        """The parts, each with a source that hands out what was read."""
        for number, (source, infos) in enumerate(self._parts):
            if isinstance(source, _AT_HAND):
                yield source, infos
            else:
                yield _Part(source, infos, self, number), infos

    def fetch(self, number: int, alignment: int) -> Fetched:
        """What was read of a part; begins to read the next ones.

        Args:
            number: Which part.
            alignment: Bytes at which each tensor shall begin.

        Returns:
            As `ByteSource.fetch`.
        """
        if os.getpid() != self._process:  # threads do not live on in a forked process
            self._start()
        for near in range(number, min(number + self._ahead + 1, len(self._parts))):
            at_hand = isinstance(self._parts[near][0], _AT_HAND)
            if (near, alignment) not in self._futures and not at_hand:
                self._futures[near, alignment] = self._workers.submit((near, alignment))
        fetched = self._futures[number, alignment].result()
        # Not kept here: the memory belongs to the tensors that are made of it.
        for done in [key for key in self._futures if key[0] <= number]:
            del self._futures[done]
        return fetched

    def _fetch(self, job: tuple[int, int]) -> Fetched:
        number, alignment = job
        source, infos = self._parts[number]
        return source.fetch(infos, alignment)


class _Part(ByteSource):
    """A part of a file, as a framework reads it."""

    def __init__(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], line: ReadAhead, number: int
    ) -> None:
        self.location, self.size, self.header = source.location, source.size, source.header
        self._source = source
        self._infos = infos
        self._line = line
        self._number = number

    def read_into(self, offset: int, view: memoryview) -> None:
        self._source.read_into(offset, view)

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        self._source.read_ranges(ranges)

    def fetch(self, infos: Mapping[str, TensorInfo], alignment: int = 1) -> Fetched:
        if infos.keys() == self._infos.keys():
            return self._line.fetch(self._number, alignment)
        return self._source.fetch(infos, alignment)

    def fetch_slice(
        self, info: TensorInfo, index: Any, alignment: int = 1
    ) -> tuple[memoryview, TensorInfo, tuple[Any, ...]]:
        return self._source.fetch_slice(info, index, alignment)


def windows(parts: Iterable[Part], nbytes: int) -> list[Part]:
    """Cut parts of files into smaller ones.

    Args:
        parts: Files and the tensors to read from each.
        nbytes: What the tensors of a part may have together; a larger tensor is a part alone.

    Returns:
        The same tensors in the same order.

    Example:
        >>> from safetensors_core import Dtype
        >>> infos = {n: TensorInfo(Dtype.U8, (4,), (4 * i, 4 * i + 4)) for i, n in enumerate("abc")}
        >>> [list(infos) for _, infos in windows([(None, infos)], 8)]
        [['a', 'b'], ['c']]
    """
    cut: list[Part] = []
    for source, infos in parts:
        window: dict[str, TensorInfo] = {}
        filled = 0
        for name, info in infos.items():
            if window and filled + info.nbytes > nbytes:
                cut.append((source, window))
                window, filled = {}, 0
            window[name] = info
            filled += info.nbytes
        if window:
            cut.append((source, window))
    return cut
