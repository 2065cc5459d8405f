"""`GpuAccelerator`: a GPU as core's pipeline sees it, and tensors in the blocks that it fills."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import paddle

from safetensors_core import ByteSource, Dtype, TensorInfo, collector, transfer
from safetensors_core.sources import allocate
from safetensors_core.transfer import Accelerator, Pinned, Place, Ticket
from safetensors_paddle.dlpack import from_carrier, has_views, tensors_in_block, tensors_over

__all__ = ["GpuAccelerator", "load_to_gpu", "pays_off", "release_pinned_memory"]

_PAGE = 4096  # of which the address of pinned memory is to be a multiple


def pays_off(place: Any, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether tensors come to a device faster by the pipeline than window by window.

    Args:
        place: Where they shall live.
        infos: The tensors.

    Example:
        >>> pays_off(paddle.CPUPlace(), {})
        False
    """
    # DLPack has another number for the GPUs of ROCm, which Paddle does not import.
    on_cuda = place.is_gpu_place() and not paddle.is_compiled_with_rocm()
    return on_cuda and has_views() and transfer.pays_off(infos)


def release_pinned_memory() -> None:
    """Let go of the pinned host memory that loading to a GPU keeps for the next load.

    Up to 256 MiB, or what the environment variable SAFETENSORS_PINNED_MEMORY says. What a load in
    another thread uses at the moment stays.

    Example:
        >>> release_pinned_memory()
    """
    transfer.release_pinned_memory()


def load_to_gpu(source: ByteSource, infos: Mapping[str, TensorInfo], place: Any) -> dict[str, Any]:
    """Tensors on a GPU: the file is read by threads while what was read is copied.

    Args:
        source: Where the bytes are.
        infos: The tensors, with the offsets of the header.
        place: The GPU.

    Returns:
        Tensors by name, in the order of `infos`. They share blocks of up to 256 MiB; to Paddle
        they are no views.

    Raises:
        InvalidInputError: Paddle has no tensor of that shape.
        OSError: The storage failed.

    Example:
        >>> from safetensors_core.sources import FileSource
        >>> source = FileSource(model_path)
        >>> header = source.read_header()
        >>> load_to_gpu(source, {}, paddle.CPUPlace())  # nothing, so that any place will do
        {}
    """
    blocks, places = transfer.upload(source, infos, GpuAccelerator(place))
    with collector.paused():
        return _in_blocks(blocks, places, infos, place)


def _in_blocks(
    blocks: Sequence[Any], places: Mapping[str, Place], infos: Mapping[str, TensorInfo], place: Any
) -> dict[str, Any]:
    placed: list[dict[str, TensorInfo]] = [{} for _ in blocks]
    for name, (number, begin, end) in places.items():
        info = infos[name]
        placed[number][name] = TensorInfo(info.dtype, info.shape, (begin, end))
    tensors: dict[str, Any] = dict.fromkeys(infos)
    for block, group in zip(blocks, placed, strict=True):
        tensors.update(tensors_in_block(block, group))
    empty = {name: info for name, info in infos.items() if name not in places}
    for name, tensor in tensors_over(memoryview(b""), empty).items():
        tensors[name] = tensor._copy_to(place, True)
    return tensors


class GpuAccelerator(Accelerator):
    """A GPU for the time of one load. Copies are part of what the program asks it to do.

    Paddle gives all threads one queue for a GPU. What runs there after the load waits for the
    copies, and these wait for what the program had asked for before.

    Args:
        place: The GPU.

    Example:
        >>> GpuAccelerator.kind
        'paddle gpu'
    """

    kind: ClassVar[str] = "paddle gpu"  # pinned by Paddle, and released by it

    def __init__(self, place: Any) -> None:
        self._place = place

    def pin(self, nbytes: int) -> Pinned:
        """Pinned memory of Paddle, which all GPUs can copy from."""
        try:
            memory = paddle.empty(
                [nbytes + _PAGE], dtype="uint8", device=self._place, pin_memory=True
            )
        except (MemoryError, RuntimeError):  # no more can be pinned: copies are slower, and right
            plain = allocate(nbytes, _PAGE)
            return Pinned(plain, plain)
        address = memory.data_ptr()
        owned = (ctypes.c_char * nbytes).from_address(address + -address % _PAGE)
        owned.owner = memory  # type: ignore[attr-defined]  # lives as long as the view
        return Pinned(memory, memoryview(owned).cast("B"))

    def new_block(self, nbytes: int) -> Any:
        """Memory of Paddle's allocator."""
        return paddle.empty([nbytes], dtype="uint8", device=self._place)

    def upload(self, pinned: Pinned, begin: int, end: int, block: Any, at: int) -> Ticket:
        """Copy behind what the GPU has been asked to do."""
        source = from_carrier(np.frombuffer(pinned.view[begin:end], np.uint8), Dtype.U8)
        part = TensorInfo(Dtype.U8, (end - begin,), (at, at + end - begin))
        tensors_in_block(block, {"": part})[""].copy_(source, False)
        # Not by the queue's own method: it makes an event of the program's device, not of this.
        queue = paddle.device.current_stream(f"gpu:{block.place.gpu_device_id()}")
        event: Ticket = queue.stream_base.record_event()
        return event

    def join(self) -> None:
        """Nothing: what the program asks for next stands in the same queue."""
