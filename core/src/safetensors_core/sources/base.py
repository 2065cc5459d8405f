"""`ByteSource`: the interface between storage and the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from safetensors_core.errors import HeaderError
from safetensors_core.header import MAX_HEADER, Header, TensorInfo, header_length, parse_header
from safetensors_core.slicing import plan_read
from safetensors_core.sources.allocation import allocate

__all__ = ["ByteSource", "Segment"]

_WIDEST = 8  # bytes of the widest element of the format


class Segment(NamedTuple):
    """A range of a source's bytes and its place in a buffer.

    Attributes:
        offset: First byte in the source.
        begin: First byte in the buffer.
        end: Byte after the last one in the buffer.

    Example:
        >>> Segment(offset=4096, begin=0, end=512).end
        512
    """

    offset: int
    begin: int
    end: int


class ByteSource(ABC):
    """One safetensors file, wherever its bytes are.

    A plugin subclasses it for a storage system of its own: `size`, `location`, `read_into` and
    `close` suffice. All methods may be called from several threads at once.

    Attributes:
        location: Path or URL, as errors show it.
        size: Size of the file in bytes.
        header: The validated header, once `read_header` has run.
        first_read: How many bytes `read_header` asks for at first: 64 KiB, which hold most headers
            whole. Who expects another size may set it before.

    Example:
        >>> from safetensors_core import save
        >>> class Stored(ByteSource):
        ...     '''Bytes in a dictionary.'''
        ...
        ...     def __init__(self, store, key):
        ...         self.location, self.data = key, store[key]
        ...         self.size = len(self.data)
        ...
        ...     def read_into(self, offset, view):
        ...         view[:] = self.data[offset : offset + len(view)]
        >>> Stored({"empty": save({})}, "empty").read_header().tensors
        {}
    """

    location: str
    size: int
    header: Header
    first_read: int = 64 * 1024

    # A descriptor or an address means nothing in another process, nor under a second owner.
    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self.location}: an open file cannot be pickled or copied; open it where it is used"
        )

    @abstractmethod
    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer with the bytes from an offset of the file on.

        Args:
            offset: Position in the file, in bytes.
            view: Writable bytes to fill whole.

        Raises:
            OSError: The storage failed.
        """

    def close(self) -> None:
        """Release what the source holds. Tensors that were loaded stay valid."""

    def read_header(self, max_header: int = MAX_HEADER) -> Header:
        """Read and validate the header, and remember it in `header`.

        Args:
            max_header: Longest header to accept, in bytes.

        Returns:
            The header.

        Raises:
            HeaderError: The file is not a valid safetensors file; the error names it.
        """
        try:
            beginning = bytearray(min(self.size, self.first_read))
            self.read_into(0, memoryview(beginning))
            length = header_length(bytes(beginning[:1024]), size=self.size, max_header=max_header)
            missing = 8 + length - len(beginning)
            if missing > 0:
                # One object for the whole header, so that its text exists once.
                done = len(beginning)
                beginning += bytes(missing)
                with memoryview(beginning) as view:
                    self.read_into(done, view[done:])
            self.header = parse_header(beginning, size=self.size, max_header=max_header)
        except HeaderError as error:
            error.location = self.location
            raise
        return self.header

    def fetch(
        self, infos: Mapping[str, TensorInfo], alignment: int = 1
    ) -> tuple[memoryview, Mapping[str, TensorInfo]]:
        """One host buffer that holds some of the tensors.

        Args:
            infos: The tensors, with the offsets of the header.
            alignment: Bytes at which each tensor shall begin; never less than its item size.

        Returns:
            A writable buffer and the same entries with offsets into it. The buffer is owned by
            the caller; a mapped file returns its map instead, at the file's own alignment.

        Raises:
            OSError: The storage failed.
        """
        if len(infos) == 1:  # programs also ask for tensors one at a time, thousands of them
            [(name, info)] = infos.items()
            begin, end = info.data_offsets
            buffer = allocate(end - begin, alignment)
            # Also without bytes to read: a file that is closed says so.
            self.read_ranges([(self.header.data_start + begin, buffer)] if buffer else [])
            return buffer, {name: TensorInfo(info.dtype, info.shape, (0, end - begin))}
        placed, segments, nbytes = place(infos, self.header.data_start, alignment)
        buffer = allocate(nbytes, alignment)
        self.read_segments(buffer, segments)
        return buffer, placed

    def fetch_slice(
        self, info: TensorInfo, index: Any, alignment: int = 1
    ) -> tuple[memoryview, TensorInfo, tuple[Any, ...]]:
        """A host buffer that holds what an index selects of one tensor, and little more.

        Args:
            info: The tensor, with the offsets of the header.
            index: What stands in brackets, with NumPy's meaning.
            alignment: Bytes at which the tensor shall begin in the buffer.

        Returns:
            The buffer, the entry of what it holds, and the index left to apply to that.

        Raises:
            SliceError: The index does not fit the tensor.
            OSError: The storage failed.
        """
        plan = plan_read(index, info.shape, info.dtype.bits)
        start = self.header.data_start + info.data_offsets[0]
        segments, filled = [], 0
        for begin, end in plan.ranges:
            segments.append(Segment(start + begin, filled, filled + end - begin))
            filled += end - begin
        buffer = allocate(filled, alignment)
        self.read_segments(buffer, segments)
        return buffer, TensorInfo(info.dtype, plan.shape, (0, filled)), plan.index

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        """Fill several buffers, one after the other. Override it to read in parallel.

        Args:
            ranges: Positions in the file, in bytes, in rising order, and for each the writable
                bytes to fill whole from there on.

        Raises:
            OSError: The storage failed. What the buffers hold then may be anything.
        """
        for offset, view in ranges:
            self.read_into(offset, view)

    def read_segments(self, buffer: memoryview, segments: Sequence[Segment]) -> None:
        """Fill parts of one buffer, as `read_ranges` does.

        Args:
            buffer: The buffer to fill.
            segments: What to read and where to put it, in the order of the file.

        Raises:
            OSError: The storage failed.
        """
        self.read_ranges([(offset, buffer[begin:end]) for offset, begin, end in segments])


def place(
    infos: Mapping[str, TensorInfo], data_start: int, alignment: int
) -> tuple[Mapping[str, TensorInfo], list[Segment], int]:
    """Lay tensors out in a buffer, each aligned, with as few separate reads as that allows.

    Args:
        infos: The tensors, with the offsets of the header.
        data_start: Where the data begins in the file.
        alignment: Bytes at which each tensor shall begin.

    Returns:
        The entries with offsets into the buffer, the reads that fill it, and its size.

    Example:
        >>> from safetensors_core.dtypes import Dtype
        >>> a, b = TensorInfo(Dtype.U8, (3,), (0, 3)), TensorInfo(Dtype.U8, (1,), (3, 4))
        >>> infos = {"a": a, "b": b}
        >>> place(infos, 100, 1)[1:]
        ([Segment(offset=100, begin=0, end=4)], 4)
        >>> place(infos, 100, 8)[1:]
        ([Segment(offset=100, begin=0, end=3), Segment(offset=103, begin=8, end=9)], 9)
    """
    nbytes = _lying_as_placed(infos, alignment)
    if nbytes:
        return infos, [Segment(data_start, 0, nbytes)], nbytes
    begins: dict[str, int] = {}
    segments: list[Segment] = []
    filled = 0  # end of the last segment in the buffer
    read = -1  # end of the last segment in the file
    for name, info in sorted(infos.items(), key=lambda item: item[1].data_offsets):
        begin, end = info.data_offsets
        step = max(alignment, info.dtype.bits // 8)
        position = -(-filled // step) * step
        begins[name] = position
        if begin == end:
            continue
        if position == filled and begin == read and segments:
            last = segments[-1]
            segments[-1] = Segment(last.offset, last.begin, filled + end - begin)
        else:
            segments.append(Segment(data_start + begin, position, position + end - begin))
        filled = position + end - begin
        read = end
    placed = {
        name: TensorInfo(info.dtype, info.shape, (begins[name], begins[name] + info.nbytes))
        for name, info in infos.items()
    }
    return placed, segments, max([filled, *begins.values()])


def _lying_as_placed(infos: Mapping[str, TensorInfo], alignment: int) -> int:
    """Bytes of the tensors if they are the file's first ones, each aligned there; 0 otherwise.

    That is most files that are read whole, and quickly found out for tens of thousands of tensors.
    """
    step = max(alignment, _WIDEST)
    filled = 0
    for info in infos.values():
        begin, end = info.data_offsets
        if begin != filled or begin % step:
            return 0
        filled = end
    return filled
