"""The tensors of open files as a stream of bytes, for files that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from safetensors_core.background import Workers
from safetensors_core.framework import TensorSpec
from safetensors_core.header import TensorInfo
from safetensors_core.sources.allocation import allocate
from safetensors_core.sources.base import ByteSource, Segment

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Self

__all__ = ["CopyStream"]

_BLOCK = 16 * 1024 * 1024  # bytes that are read at once, while those before them are written
_NONE = -1, memoryview(b"")  # no block


class _Piece(NamedTuple):
    """A part of a tensor that lies in one block."""

    source: ByteSource
    segment: Segment


class CopyStream:
    r"""Tensors of open files, ready to be written one after the other.

    Their bytes are read in blocks, the next one while the last one is written, so that a remote
    file is asked for much at a time however small its tensors are. Memory stays at two blocks.

    Args:
        tensors: By name: the file, its header read, and the entry in that header.
        order: All names in the order in which the tensors will be written; another one takes
            longer.
        progress: Called with the bytes that were handed out so far and with those of all tensors.

    Example:
        >>> from safetensors_core import save
        >>> from safetensors_core.sources import MemorySource
        >>> source = MemorySource(save({"w": np.ones(2), "b": np.zeros(1)}))
        >>> infos = source.read_header().tensors
        >>> tensors = {name: (source, info) for name, info in infos.items()}
        >>> with CopyStream(tensors, ["b", "w"]) as stream:
        ...     copies = {name: b"".join(chunks()) for name, spec, chunks in stream.entries()}
        >>> len(copies["w"]), copies["b"]
        (16, b'\x00\x00\x00\x00\x00\x00\x00\x00')
    """

    def __init__(
        self,
        tensors: Mapping[str, tuple[ByteSource, TensorInfo]],
        order: Iterable[str],
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        self._infos = {name: info for name, (_, info) in tensors.items()}
        self._progress = progress
        self._total = sum(info.nbytes for info in self._infos.values())
        self._done = 0
        self._places, self._blocks = _in_blocks((name, *tensors[name]) for name in order)
        # Two blocks at most: the one that is written, and the one that is read meanwhile.
        self._read: dict[int, Future[memoryview]] = {}
        # The one that is written, by its number: thousands of tensors may lie in it.
        self._current: tuple[int, memoryview] = _NONE
        self._workers = Workers(_read, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._workers.close()
        self._current = _NONE
        self._read.clear()

    def entries(self) -> Iterable[tuple[str, TensorSpec, Callable[[], Iterator[memoryview]]]]:
        """The tensors, as `save_stream` takes them.

        Example:
            >>> list(CopyStream({}, []).entries())
            []
        """
        for name, info in self._infos.items():
            yield name, TensorSpec(info.dtype, info.shape), partial(self._chunks, name)

    def _chunks(self, name: str) -> Iterator[memoryview]:
        missing = self._infos[name].nbytes
        number, begin = self._places.get(name, (0, 0))
        while missing:
            chunk = self._block(number)[begin : begin + missing]
            missing -= len(chunk)
            self._done += len(chunk)
            number, begin = number + 1, 0
            yield chunk
            del chunk  # before the next one is read
            if self._progress is not None:
                self._progress(self._done, self._total)

    def _block(self, number: int) -> memoryview:
        """A block, and the one after it is being read."""
        if number == self._current[0]:
            return self._current[1]
        self._current = _NONE  # before the next one is read
        for other in self._read.keys() - {number, number + 1}:
            del self._read[other]
        for wanted in (number, number + 1):
            if wanted < len(self._blocks) and wanted not in self._read:
                self._read[wanted] = self._workers.submit(self._blocks[wanted])
        block = self._read[number].result()
        self._current = number, block
        return block


def _read(pieces: list[_Piece]) -> memoryview:
    """Read a block, with one call for all that lies in one file."""
    buffer = allocate(pieces[-1].segment.end)
    by_source: dict[int, list[_Piece]] = {}
    for piece in pieces:
        by_source.setdefault(id(piece.source), []).append(piece)
    for [first, *others] in by_source.values():
        segments = [first.segment, *(piece.segment for piece in others)]
        first.source.read_segments(buffer, sorted(segments))
    return buffer


def _in_blocks(
    tensors: Iterable[tuple[str, ByteSource, TensorInfo]],
) -> tuple[dict[str, tuple[int, int]], list[list[_Piece]]]:
    """Where each tensor begins, as block and byte in it, and what the blocks are read from."""
    places: dict[str, tuple[int, int]] = {}
    blocks: list[list[_Piece]] = []
    filled = _BLOCK
    for name, source, info in tensors:
        begin, end = info.data_offsets
        begin, end = source.header.data_start + begin, source.header.data_start + end
        while begin < end:
            if filled == _BLOCK:
                blocks.append([])
                filled = 0
            places.setdefault(name, (len(blocks) - 1, filled))
            count = min(end - begin, _BLOCK - filled)
            pieces, segment = blocks[-1], Segment(begin, filled, filled + count)
            if pieces and pieces[-1].source is source and _follows(pieces[-1].segment, segment):
                # Of thousands of tensors that lie together, one piece.
                segment = Segment(*pieces.pop().segment[:2], segment.end)
            pieces.append(_Piece(source, segment))
            begin += count
            filled += count
    return places, blocks


def _follows(first: Segment, second: Segment) -> bool:
    """Whether the second segment continues the first, in the file as in the block."""
    return second.offset == first.offset + first.end - first.begin
