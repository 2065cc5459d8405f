"""`Accelerator`: what a framework tells the pipeline about one of its devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Protocol

__all__ = ["Accelerator", "Pinned", "Ticket"]


class Ticket(Protocol):
    """A copy that is under way. Events of torch are tickets as they are.

    Example:
        >>> from safetensors_core.transfer.host import HostAccelerator
        >>> host = HostAccelerator()
        >>> host.upload(host.pin(4096), 0, 8, host.new_block(8), 0).query()
        True
    """

    def query(self) -> bool:
        """Whether the copy has ended."""

    def synchronize(self) -> None:
        """Wait until the copy has ended."""


class Pinned(NamedTuple):
    """Host memory that a device can copy from while nobody waits for it.

    Attributes:
        memory: The framework's own object for it, which keeps it alive.
        view: The same memory as writable bytes that begin at a multiple of 4,096.

    Example:
        >>> memory = bytearray(4096)
        >>> len(Pinned(memory, memoryview(memory)).view)
        4096
    """

    memory: Any
    view: memoryview


class Accelerator(ABC):
    """One device for the time of one load.

    All methods are called from the thread that loads. Copies begin after what the program had
    asked the device to do before, because that may still use the memory of a new block.

    Attributes:
        kind: Devices of one kind can use the same pinned memory: ``"cuda"``.
        block_size: Bytes of a block of several tensors, at most. A larger tensor has a block of
            its own; with 0, each tensor has.

    Example:
        >>> from safetensors_core.transfer.host import HostAccelerator
        >>> isinstance(HostAccelerator(), Accelerator)
        True
    """

    kind: ClassVar[str]
    block_size: ClassVar[int] = 256 * 1024 * 1024

    @abstractmethod
    def pin(self, nbytes: int) -> Pinned:
        """Allocate pinned memory, or plain memory where the system refuses to pin more.

        Args:
            nbytes: Size in bytes, a multiple of 4,096.

        Raises:
            MemoryError: There is no memory left.
        """

    @abstractmethod
    def new_block(self, nbytes: int) -> Any:
        """Allocate memory of the device, by the framework's own allocator.

        Args:
            nbytes: Size in bytes.

        Returns:
            The framework's object for it, which releases it with its last user. It begins at a
            multiple of 256 bytes.
        """

    @abstractmethod
    def upload(self, pinned: Pinned, begin: int, end: int, block: Any, at: int) -> Ticket:
        """Begin to copy from the host to the device.

        Args:
            pinned: Memory that stays as it is until the copy has ended.
            begin: First byte to copy.
            end: Byte after the last one.
            block: Memory of the device.
            at: Where in the block the first byte goes.

        Returns:
            What knows when the copy has ended.
        """

    @abstractmethod
    def join(self) -> None:
        """Let what the program does next on the device wait for the copies; if it must, wait."""
