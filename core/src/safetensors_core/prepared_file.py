"""A file of which all is known but the bytes of the tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from safetensors_core import collector
from safetensors_core.entries import Contents
from safetensors_core.header import TensorInfo
from safetensors_core.layout import lay_out
from safetensors_core.progress import Progress

__all__ = ["Output", "PreparedFile", "WrittenBytes", "prepare_file"]

_PIECE = 64 * 1024 * 1024  # bytes of one tensor that are written between two reports


class Output(Protocol):
    """What the bytes of a file are handed to, from the first to the last.

    Example:
        >>> from safetensors_core.replacement import ReplacementFile
        >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as output:
        ...     output.write([memoryview(b"abc")])
    """

    def naming(self) -> AbstractContextManager[None]:
        """Let errors of the storage inside a block name the location that the user gave.

        Example:
            >>> from safetensors_core.replacement import ReplacementFile
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file, file.naming():
            ...     file.reserve(10)
        """

    def reserve(self, nbytes: int) -> None:
        """Make ready for so many bytes in all.

        Example:
            >>> from safetensors_core.replacement import ReplacementFile
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as output:
            ...     output.reserve(3)
        """

    def write(self, views: list[memoryview]) -> None:
        """Append buffers of bytes, all of them.

        Example:
            >>> from safetensors_core.replacement import ReplacementFile
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as output:
            ...     output.write([memoryview(b"ab"), memoryview(b"c")])
        """


class WrittenBytes:
    """How much of all files of a save is written, told to whoever asked.

    Args:
        progress: Called with the bytes that are written and the bytes of all; None for nobody.
        total: Bytes of all files.

    Example:
        >>> written = WrittenBytes(print, 10)
        >>> written.add(4)
        4 10
        >>> written.add(6)
        10 10
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, nbytes: int) -> None:
        """Note bytes that were written.

        Args:
            nbytes: How many.

        Example:
            >>> WrittenBytes(None, 10).add(4)
        """
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


class PreparedFile(NamedTuple):
    """A file of which all is known but the bytes of the tensors.

    Attributes:
        beginning: Its first bytes, up to the data.
        infos: The tensors in the order of the file.
        contents: Where their bytes come from.

    Example:
        >>> from safetensors_core.entries import StreamedTensors
        >>> prepare_file(StreamedTensors({}, {}), None, 8).nbytes
        16
    """

    beginning: bytes
    infos: dict[str, TensorInfo]
    contents: Contents

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes.

        Example:
            >>> from safetensors_core.entries import StreamedTensors
            >>> prepare_file(StreamedTensors({}, {}), {"by": "me"}, 8).nbytes
            40
        """
        last = next(reversed(self.infos.values())).data_offsets[1] if self.infos else 0
        return len(self.beginning) + last

    def write_to(self, output: Output, written: WrittenBytes) -> None:
        """Hand the file to an output.

        Args:
            output: Where it goes.
            written: What is told how much has gone there.

        Raises:
            InvalidInputError: A tensor yields more or fewer bytes than its spec says.
            OSError: The storage refuses.

        Example:
            >>> from safetensors_core.entries import StreamedTensors
            >>> from safetensors_core.replacement import ReplacementFile
            >>> file = prepare_file(StreamedTensors({}, {}), None, 8)
            >>> with ReplacementFile(tmp_path / "empty.safetensors", fsync=True) as output:
            ...     file.write_to(output, WrittenBytes(print, file.nbytes))
            16 16
        """
        with output.naming():
            output.reserve(self.nbytes)
            output.write([memoryview(self.beginning)])
        written.add(len(self.beginning))
        for batch in self.contents.batches(self.infos):
            for piece in _pieces(batch):
                nbytes = sum(map(len, piece))
                with output.naming():
                    output.write(piece)
                written.add(nbytes)
            del piece
            batch.clear()  # before the next one is made


def prepare_file(
    contents: Contents,
    metadata: Mapping[str, str] | None,
    alignment: int,
    names: Iterable[str] | None = None,
) -> PreparedFile:
    """Find where everything goes in a file.

    Args:
        contents: The tensors.
        metadata: Strings by name; None for no metadata.
        alignment: The data begins at a multiple of this many bytes.
        names: Those of the tensors that the file holds; None for all.

    Returns:
        The file, of which nothing is written yet.

    Raises:
        InvalidInputError: A name, a metadata value, a shape or `alignment` cannot be saved.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> from safetensors_core.entries import collect_entries
        >>> contents = collect_entries([("a", TensorSpec(Dtype.U8, (3,)), lambda: [b"abc"])])
        >>> list(prepare_file(contents, None, 8).infos)
        ['a']
    """
    specs = contents.specs
    # A collection walks all that a program has: with TensorFlow loaded, a quarter of a second.
    with collector.paused():
        own = specs if names is None else {name: specs[name] for name in names}
        beginning, infos = lay_out(own, metadata, alignment)
    return PreparedFile(beginning, infos, contents)


def _pieces(batch: list[memoryview]) -> Iterator[list[memoryview]]:
    """A batch, cut where it is one large tensor: who watches or interrupts waits for a piece."""
    if len(batch) > 1 or len(batch[0]) <= _PIECE:
        yield batch
        return
    [view] = batch
    for begin in range(0, len(view), _PIECE):
        yield [view[begin : begin + _PIECE]]
