"""`Ring`: pinned memory that the process allocates once and uses again and again."""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import Empty, SimpleQueue

from safetensors_core.errors import InvalidInputError
from safetensors_core.sizes import parse_size
from safetensors_core.transfer.accelerator import Accelerator, Pinned, Ticket

__all__ = ["SLOT", "Ring", "Slot", "release_pinned_memory", "ring_for"]

#: Bytes of a slot: large enough for a copy at full speed, and a power of two, to which torch
#: rounds pinned memory up.
SLOT = 16 * 1024 * 1024

_BUDGET = 16 * SLOT
_VARIABLE = "SAFETENSORS_PINNED_MEMORY"


class Slot:
    """A piece of a ring's memory in use. It goes back with the last reference to it.

    Attributes:
        pinned: The memory.
        ticket: The copy that is under way from or to it; the next user waits for its end.

    Example:
        >>> with_memory = Slot(Ring(SLOT), Pinned(b"", memoryview(b"")))
        >>> with_memory.give_back()
    """

    __slots__ = ("_ring", "pinned", "ticket")

    def __init__(self, ring: Ring, pinned: Pinned) -> None:
        self._ring: Ring | None = ring
        self.pinned = pinned
        self.ticket: Ticket | None = None

    def give_back(self) -> None:
        """Let others use the memory. What holds the slot must not touch it any more.

        Example:
            >>> ring = Ring(SLOT)
            >>> slot = Slot(ring, Pinned(b"", memoryview(b"")))
            >>> slot.give_back()
            >>> slot.give_back()  # once is enough
        """
        ring, self._ring = self._ring, None
        if ring is not None:
            ring._idle.append((self.pinned, self.ticket))
            ring._free.put(None)

    # An interrupt can come between any two lines: no block of code could give back everything.
    __del__ = give_back


class Ring:
    """Slots of pinned memory, which threads share.

    Memory is pinned when it is needed first, and stays pinned. Nobody who waits for a slot should
    hold another: those who do not wait take what is there.

    Args:
        budget: Bytes to pin at most.

    Raises:
        InvalidInputError: The budget is smaller than a slot.

    Example:
        >>> Ring(4 * SLOT).slots
        4
    """

    def __init__(self, budget: int) -> None:
        if budget < SLOT:
            raise InvalidInputError(
                f"{budget:,} bytes of pinned memory are too few: at least {SLOT:,} are needed"
            )
        self.slots = budget // SLOT
        # A slot comes back wherever its last user dies, so also in the middle of what is done
        # here: what `Slot.give_back` does must need no lock. A queue holds what may be taken,
        # the memory itself lies beside it.
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(self.slots):
            self._free.put(None)
        self._idle: deque[tuple[Pinned, Ticket | None]] = deque()
        self._pinned = 0
        self._lock = threading.Lock()

    def take(self, accelerator: Accelerator, *, wait: bool) -> Slot | None:
        """A slot that no copy uses any more.

        Args:
            accelerator: Pins the memory of a new slot.
            wait: Whether to wait where all slots are in use.

        Returns:
            The slot; None where all are in use, and the caller does not want to wait.

        Raises:
            MemoryError: There is no memory left.

        Example:
            >>> from safetensors_core.transfer.host import HostAccelerator
            >>> ring = Ring(SLOT)
            >>> slot = ring.take(HostAccelerator(), wait=True)
            >>> ring.take(HostAccelerator(), wait=False) is None
            True
        """
        try:
            self._free.get(block=wait)
        except Empty:
            return None
        pinned = None
        try:
            pinned = self._memory(accelerator)
        finally:
            if pinned is None:
                self._free.put(None)
        return Slot(self, pinned)

    def release(self) -> None:
        """Let go of the memory that is not in use at the moment.

        Example:
            >>> Ring(SLOT).release()
        """
        with self._lock:
            while self._idle:
                pinned, ticket = self._idle.popleft()
                self._pinned -= 1
                if ticket is not None:
                    ticket.synchronize()
                del pinned, ticket

    def _memory(self, accelerator: Accelerator) -> Pinned:
        with self._lock:
            # As long as the oldest copy has not ended, more memory keeps the readers busy.
            full = self._pinned == self.slots
            reused = self._idle.popleft() if self._idle and (full or self._is_ready()) else None
            self._pinned += reused is None
        if reused is None:
            return self._new(accelerator)
        pinned, ticket = reused
        try:
            if ticket is not None:
                ticket.synchronize()
        except BaseException:
            self._idle.append(reused)
            raise
        return pinned

    def _is_ready(self) -> bool:
        ticket = self._idle[0][1]
        return ticket is None or ticket.query()

    def _new(self, accelerator: Accelerator) -> Pinned:
        made = None
        try:
            made = accelerator.pin(SLOT)
        finally:
            if made is None:
                with self._lock:
                    self._pinned -= 1
        return made


_rings: dict[str, Ring] = {}


def ring_for(accelerator: Accelerator) -> Ring:
    """The ring of the process for a kind of device.

    Its size is 256 MiB, or what the environment variable SAFETENSORS_PINNED_MEMORY says when it is
    asked for first.

    Args:
        accelerator: A device of that kind.

    Returns:
        The ring.

    Raises:
        InvalidInputError: The environment variable is no size, or too small.

    Example:
        >>> from safetensors_core.transfer.host import HostAccelerator
        >>> ring_for(HostAccelerator()) is ring_for(HostAccelerator())
        True
    """
    ring = _rings.get(accelerator.kind)
    if ring is None:
        ring = _rings.setdefault(accelerator.kind, Ring(_budget()))
    return ring


def release_pinned_memory() -> None:
    """Let go of the pinned memory that the process keeps, as far as it is not in use.

    Example:
        >>> release_pinned_memory()
    """
    for ring in tuple(_rings.values()):
        ring.release()


def _budget() -> int:
    text = os.environ.get(_VARIABLE)
    if text is None:
        return _BUDGET
    try:
        budget = parse_size(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"environment variable {_VARIABLE}: {error}") from None
    if budget < SLOT:
        raise InvalidInputError(
            f"environment variable {_VARIABLE}: {text!r} is too little: at least 16MiB are needed"
        )
    return budget
