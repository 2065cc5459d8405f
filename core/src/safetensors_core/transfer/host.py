"""`HostAccelerator`: the host in the place of a device, for examples and tests."""

from __future__ import annotations

import mmap
from typing import ClassVar

from safetensors_core.transfer.accelerator import Accelerator, Pinned, Ticket

__all__ = ["HostAccelerator"]


class HostAccelerator(Accelerator):
    """The host's memory as that of a device: its copies have ended when they have begun.

    Example:
        >>> host = HostAccelerator()
        >>> block, pinned = host.new_block(8), host.pin(4096)
        >>> pinned.view[:3] = b"abc"
        >>> host.upload(pinned, 0, 3, block, 4).query(), bytes(block[4:7])
        (True, b'abc')
    """

    kind: ClassVar[str] = "host"

    def pin(self, nbytes: int) -> Pinned:
        """Pages of plain memory."""
        memory = memoryview(mmap.mmap(-1, nbytes))
        return Pinned(memory, memory)

    def new_block(self, nbytes: int) -> bytearray:
        """Zeros."""
        return bytearray(nbytes)

    def upload(self, pinned: Pinned, begin: int, end: int, block: bytearray, at: int) -> Ticket:
        """Copy at once."""
        block[at : at + end - begin] = pinned.view[begin:end]
        return _Done()

    def join(self) -> None:
        """There is nothing to wait for."""


class _Done:
    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass
