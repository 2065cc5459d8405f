"""`GpuAccelerator`: a GPU as core's pipeline sees it, and the tensors that it brings there."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import paddle

from safetensors_core import ByteSource, Dtype, TensorInfo, transfer
from safetensors_core.sources import allocate
from safetensors_core.transfer import Accelerator, Pinned, Ticket
from safetensors_paddle.host_memory import (
    DTYPES,
    MOST_DIMENSIONS,
    from_carrier,
    has_views,
    refusal,
)

__all__ = ["GpuAccelerator", "large_ones", "load_to_gpu", "release_pinned_memory"]

_PAGE = 4096  # of which the address of pinned memory is to be a multiple

# Each tensor takes a copy of its own: smaller ones come sooner many at a time.
_LARGE = 1024 * 1024

_PAUSE = 0.0001  # seconds between two looks at a copy: in 16 MiB there are at least three


def large_ones(place: Any, infos: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Those tensors that come to a device faster by the pipeline than with others in a window.

    Args:
        place: Where they shall live.
        infos: The tensors.

    Example:
        >>> large_ones(paddle.CPUPlace(), {})
        {}
    """
    if not place.is_gpu_place() or not has_views() or not transfer.pays_off(infos):
        return {}
    return {name: info for name, info in infos.items() if info.nbytes >= _LARGE}


def release_pinned_memory() -> None:
    """Let go of the pinned host memory that loading to a GPU keeps for the next load.

    Up to 256 MiB, or what the environment variable SAFETENSORS_PINNED_MEMORY says. What a load in
    another thread uses at the moment stays. Paddle takes it back, and may keep it pinned for what
    it pins next.

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
        Tensors by name, each in memory of its own.

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
    for name, info in infos.items():
        if len(info.shape) > MOST_DIMENSIONS:
            raise refusal(info.shape, "", f"tensor {name!r}: ")
    blocks, places = transfer.upload(source, infos, GpuAccelerator(place))
    tensors = {}
    for name, (number, _, _) in places.items():
        info = infos[name]
        tensors[name] = paddle.view(paddle.view(blocks[number], DTYPES[info.dtype]), info.shape)
    return tensors


class GpuAccelerator(Accelerator):
    """A GPU for the time of one load. Copies are part of what the program asks it to do.

    Paddle gives all threads one queue for a GPU; copies wait there for what the program had asked
    for before. Each tensor has a block of its own: views of one would share their count of
    changes, and releasing what Paddle borrows on a GPU takes a lock of Paddle's.

    Args:
        place: The GPU.

    Example:
        >>> GpuAccelerator.kind
        'paddle gpu'
    """

    kind: ClassVar[str] = "paddle gpu"  # pinned by Paddle, and released by it
    block_size: ClassVar[int] = 0

    def __init__(self, place: Any) -> None:
        self._place = place
        self._last: Ticket | None = None

    def pin(self, nbytes: int) -> Pinned:
        """Pinned memory of Paddle, which all GPUs can copy from."""
        memory: Any = None
        with contextlib.suppress(MemoryError, OSError, RuntimeError):
            memory = paddle.empty(
                [nbytes + _PAGE], dtype="uint8", device=self._place, pin_memory=True
            )
        address = memory.data_ptr() if memory is not None else 0
        if not address:  # no more can be pinned: copies are slower then, and as right
            plain = allocate(nbytes, _PAGE)
            return Pinned(plain, plain)
        owned = (ctypes.c_char * nbytes).from_address(address + -address % _PAGE)
        owned.owner = memory  # type: ignore[attr-defined]  # lives as long as the view
        return Pinned(memory, memoryview(owned).cast("B"))

    def new_block(self, nbytes: int) -> Any:
        """Memory of Paddle's allocator."""
        return paddle.empty([nbytes], dtype="uint8", device=self._place)

    def upload(self, pinned: Pinned, begin: int, end: int, block: Any, at: int) -> Ticket:
        """Copy behind what the GPU has been asked to do."""
        source = from_carrier(np.frombuffer(pinned.view[begin:end], np.uint8), Dtype.U8)
        before = self._queue()
        block[at : at + end - begin].copy_(source, False)
        queue = self._queue()
        if queue.cuda_stream != before.cuda_stream:
            # Another thread has changed the queue: who knows which one took the copy.
            paddle.device.synchronize(self._name())
        # The copy has made this GPU the one of the thread, and an event is made for that one.
        self._last = _Copy(queue.record_event())
        return self._last

    def join(self) -> None:
        """Wait for the last copy: what copies back to the host need not wait for this queue."""
        if self._last is not None:
            self._last.synchronize()

    def _name(self) -> str:
        return f"gpu:{self._place.gpu_device_id()}"

    def _queue(self) -> Any:
        return paddle.device.current_stream(self._name()).stream_base


class _Copy:
    """A copy that is under way."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def query(self) -> bool:
        return bool(self._event.query())

    def synchronize(self) -> None:
        # Paddle's own way to wait lets no other thread of Python run.
        while not self._event.query():
            time.sleep(_PAUSE)
