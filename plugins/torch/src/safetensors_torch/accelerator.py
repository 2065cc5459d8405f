"""`CudaAccelerator`: CUDA devices, and those of ROCm, as core's pipeline sees them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import ClassVar

import torch

import safetensors_core.transfer
from safetensors_core import TensorInfo
from safetensors_core.sources import allocate
from safetensors_core.transfer import Accelerator, Pinned, Ticket

__all__ = ["CudaAccelerator", "pays_off", "release_pinned_memory"]


def pays_off(device: torch.device, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether tensors come to a device faster by the pipeline than one by one.

    Args:
        device: Where they shall live.
        infos: The tensors.

    Example:
        >>> pays_off(torch.device("cpu"), {})
        False
    """
    return device.type == "cuda" and safetensors_core.transfer.pays_off(infos)


class CudaAccelerator(Accelerator):
    """A CUDA device for the time of one load, with a stream of its own.

    The program's stream is the one that is current when this is made.

    Args:
        device: The device; without an index, the current one.

    Example:
        >>> CudaAccelerator.kind
        'cuda'
    """

    kind: ClassVar[str] = "cuda"

    def __init__(self, device: torch.device) -> None:
        self._program = torch.cuda.current_stream(device)
        self._stream = torch.cuda.Stream(self._program.device)  # type: ignore[no-untyped-call]

    def pin(self, nbytes: int) -> Pinned:
        """Pinned memory of torch, which all devices can copy from."""
        try:
            memory = torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
        except RuntimeError:  # the system pins no more: copies are slower then, and as right
            memory = torch.frombuffer(allocate(nbytes), dtype=torch.uint8)
        owned = (ctypes.c_char * nbytes).from_address(memory.data_ptr())
        owned.owner = memory  # type: ignore[attr-defined]  # lives as long as the view
        return Pinned(memory, memoryview(owned).cast("B"))

    def new_block(self, nbytes: int) -> torch.Tensor:
        """Memory of torch's allocator, from the pool of the program's stream."""
        with torch.cuda.stream(self._program):
            block = torch.empty(nbytes, dtype=torch.uint8, device=self._program.device)
        # What had this memory before may still be in use by the program's stream.
        self._stream.wait_stream(self._program)
        # Should nobody come to `join`, it must not be given out while copies to it run.
        block.record_stream(self._stream)
        return block

    def upload(self, pinned: Pinned, begin: int, end: int, block: torch.Tensor, at: int) -> Ticket:
        """Copy on the stream of its own."""
        with torch.cuda.stream(self._stream):
            block[at : at + end - begin].copy_(pinned.memory[begin:end], non_blocking=True)
        event: Ticket = self._stream.record_event()
        return event

    def join(self) -> None:
        """Let the program's stream wait."""
        self._program.wait_stream(self._stream)


def release_pinned_memory() -> None:
    """Let go of the pinned host memory that loading to a GPU keeps for the next load.

    Up to 256 MiB, or what the environment variable SAFETENSORS_PINNED_MEMORY says. What a load in
    another thread uses at the moment stays.

    Example:
        >>> release_pinned_memory()
    """
    safetensors_core.transfer.release_pinned_memory()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.accelerator.empty_host_cache()
