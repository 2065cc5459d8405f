"""What is copied to a device, and how: few blocks, each filled by few large copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from safetensors_core.header import TensorInfo
from safetensors_core.sources import Segment
from safetensors_core.transfer.ring import SLOT

__all__ = ["ALIGNMENT", "PAGE", "Chunk", "Place", "Plan", "plan_upload"]

#: Bytes of which a tensor's address on the device is a multiple: what cuBLAS wants for its fastest
#: kernels, and what a tensor with memory of its own would have.
ALIGNMENT = 256

#: Bytes of a page: direct reads want file and memory at the same place in one.
PAGE = 4096


class Place(NamedTuple):
    """Where a tensor lies on the device.

    Attributes:
        block: Number of its block.
        begin: First byte in the block.
        end: Byte after the last one.

    Example:
        >>> Place(block=0, begin=256, end=264).end
        264
    """

    block: int
    begin: int
    end: int


class Chunk(NamedTuple):
    """What one slot takes to the device.

    Attributes:
        block: Number of the block that it goes to.
        at: First byte in the block.
        begin: First byte in the slot.
        end: Byte after the last one in the slot.
        reads: What is read into the slot, in the order of the file.

    Example:
        >>> Chunk(0, 0, 4, 12, [Segment(4100, 4, 12)]).end
        12
    """

    block: int
    at: int
    begin: int
    end: int
    reads: list[Segment]


class Plan(NamedTuple):
    """How tensors come to a device.

    Attributes:
        blocks: Sizes of the blocks, in bytes.
        places: Where each tensor that is not empty lies.
        segments: For each block, what of the file goes where in it.

    Example:
        >>> plan_upload({}, 8, 512).blocks
        []
    """

    blocks: list[int]
    places: dict[str, Place]
    segments: list[list[Segment]]

    def chunks(self) -> Iterator[Chunk]:
        """The copies that fill the blocks, in the order of the file.

        Yields:
            Chunks that fit a slot. All but the first of a segment begin at a page of the file,
            and lie in the slot as they lie in the file's pages.

        Example:
            >>> list(plan_upload({}, 8, 512).chunks())
            []
        """
        for number, segments in enumerate(self.segments):
            yield from _chunks(number, segments)


def plan_upload(infos: Mapping[str, TensorInfo], data_start: int, block_size: int) -> Plan:
    """Lay tensors out in blocks, in the order of the file and with its gaps left out.

    Args:
        infos: The tensors, with the offsets of the header.
        data_start: Where the data begins in the file.
        block_size: Bytes of a block of several tensors, at most. A tensor that is larger has a
            block of its own.

    Returns:
        The plan.

    Example:
        >>> from safetensors_core import Dtype
        >>> a, b = TensorInfo(Dtype.U8, (3,), (0, 3)), TensorInfo(Dtype.U8, (5,), (3, 8))
        >>> plan = plan_upload({"a": a, "b": b}, 100, block_size=512)
        >>> plan.blocks, plan.places["b"]
        ([261], Place(block=0, begin=256, end=261))
        >>> [(chunk.begin, chunk.end, len(chunk.reads)) for chunk in plan.chunks()]
        [(100, 361, 2)]
    """
    blocks: list[int] = []
    places: dict[str, Place] = {}
    segments: list[list[Segment]] = []
    offset = first = 0  # where the last segment begins in the file and in its block
    filled = read = 0  # where it ends
    for name, info in sorted(infos.items(), key=_offset):
        begin, end = info.data_offsets
        if begin == end:
            continue
        position = -(-filled // ALIGNMENT) * ALIGNMENT
        if not blocks or position + end - begin > block_size:
            if blocks:
                blocks[-1] = filled
                segments[-1].append(Segment(data_start + offset, first, filled))
            blocks.append(0)
            segments.append([])
            position = first = 0
            offset = begin
        elif position != filled or begin != read:
            segments[-1].append(Segment(data_start + offset, first, filled))
            first, offset = position, begin
        read = end
        filled = position + end - begin
        places[name] = Place(len(blocks) - 1, position, filled)
    if blocks:
        blocks[-1] = filled
        segments[-1].append(Segment(data_start + offset, first, filled))
    return Plan(blocks, places, segments)


def _offset(item: tuple[str, TensorInfo]) -> tuple[int, int]:
    return item[1].data_offsets


def _chunks(number: int, segments: list[Segment]) -> Iterator[Chunk]:
    reads: list[Segment] = []
    base = 0  # where the block's first byte would lie in the slot
    for offset, begin, end in segments:
        while begin < end:
            if not reads:
                base = offset % PAGE - begin
            room = SLOT - (base + begin)
            count = end - begin
            if count > room:
                # Up to the last page of the file that fits.
                count = max(0, (offset + room) // PAGE * PAGE - offset)
            if count:
                reads.append(Segment(offset, base + begin, base + begin + count))
                offset += count
                begin += count
            if begin < end:
                yield _chunk(number, base, reads)
                reads = []
    if reads:
        yield _chunk(number, base, reads)


def _chunk(number: int, base: int, reads: list[Segment]) -> Chunk:
    begin, end = reads[0].begin, reads[-1].end
    return Chunk(number, begin - base, begin, end, reads)
