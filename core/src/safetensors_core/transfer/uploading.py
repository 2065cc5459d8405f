"""Reading tensors onto a device: the file is read by threads while what was read is copied."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors_core.background import Workers
from safetensors_core.header import TensorInfo
from safetensors_core.sources import ByteSource
from safetensors_core.threads import worker_count
from safetensors_core.transfer.accelerator import Accelerator
from safetensors_core.transfer.direct import DirectFile, open_direct
from safetensors_core.transfer.plan import Chunk, Place, Plan, plan_upload
from safetensors_core.transfer.positional import positional
from safetensors_core.transfer.ring import Ring, Slot, ring_for

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["pays_off", "upload"]

# Below this, threads and a queue of copies cost more than they save.
_FEW = 32
_LITTLE = 4 * 1024 * 1024


def pays_off(infos: Mapping[str, TensorInfo]) -> bool:
    """Whether tensors come to a device faster by `upload` than one by one.

    Args:
        infos: The tensors.

    Example:
        >>> pays_off({})
        False
    """
    return len(infos) >= _FEW or sum(info.nbytes for info in infos.values()) >= _LITTLE


def upload(
    source: ByteSource, infos: Mapping[str, TensorInfo], accelerator: Accelerator
) -> tuple[list[Any], dict[str, Place]]:
    """Read tensors onto a device, without holding all of them on the host.

    Threads read the file into pinned memory, in its order. The calling thread has each piece
    copied as soon as it is read. It does not wait for the copies: what the program asks the device
    to do afterwards does.

    Args:
        source: Where the bytes are.
        infos: The tensors, with the offsets of the header.
        accelerator: The device.

    Returns:
        Blocks of memory of the device, and where in them each tensor lies that is not empty.

    Raises:
        OSError: The storage failed. The reads that have not begun are given up.
        InvalidInputError: An environment variable that sets memory or threads is not valid.

    Example:
        >>> from safetensors_core.sources import FileSource
        >>> from safetensors_core.transfer.host import HostAccelerator
        >>> source = FileSource(model_path)
        >>> infos = source.read_header().tensors
        >>> blocks, places = upload(source, infos, HostAccelerator())
        >>> number, begin, end = places["weight"]
        >>> np.frombuffer(blocks[number][begin:end], np.float32)
        array([0., 1., 2., 3., 4., 5.], dtype=float32)
    """
    source = positional(source)
    ring = ring_for(accelerator)
    plan = plan_upload(infos, source.header.data_start, accelerator.block_size)
    blocks = [accelerator.new_block(nbytes) for nbytes in plan.blocks]
    try:
        _fill(blocks, plan, source, accelerator, ring)
    finally:
        # Also after an error: the blocks must not be used again while copies to them run.
        accelerator.join()
    return blocks, plan.places


class _Read(NamedTuple):
    """A chunk that is being read."""

    chunk: Chunk
    slot: Slot
    future: Future[None]


def _fill(
    blocks: list[Any], plan: Plan, source: ByteSource, accelerator: Accelerator, ring: Ring
) -> None:
    count = worker_count()
    under_way: deque[_Read] = deque()

    def copy_oldest() -> None:
        chunk, slot, future = under_way.popleft()
        future.result()
        slot.ticket = accelerator.upload(
            slot.pinned, chunk.begin, chunk.end, blocks[chunk.block], chunk.at
        )

    direct = open_direct(source, [segment for each in plan.segments for segment in each])
    with Workers(partial(_read, source, direct), count) as readers:
        try:
            for chunk in plan.chunks():
                while under_way and (len(under_way) > count or under_way[0].future.done()):
                    copy_oldest()
                # Who holds slots does not wait for others, which could wait for these.
                while (slot := ring.take(accelerator, wait=not under_way)) is None:
                    copy_oldest()
                under_way.append(_Read(chunk, slot, readers.submit((chunk, slot))))
                del slot
            while under_way:
                copy_oldest()
        finally:
            # An error keeps what its frames refer to. What still reads keeps its slot itself.
            under_way.clear()


def _read(source: ByteSource, direct: DirectFile | None, job: tuple[Chunk, Slot]) -> None:
    chunk, slot = job
    view = slot.pinned.view
    try:
        if len(chunk.reads) == 1:  # by this thread alone: there are others for the other chunks
            [segment] = chunk.reads
            if direct is None or not direct.read(view, segment):
                source.read_into(segment.offset, view[segment.begin : segment.end])
        else:
            source.read_ranges([(offset, view[begin:end]) for offset, begin, end in chunk.reads])
    except BaseException:
        slot.give_back()  # the error's frames refer to it
        raise
