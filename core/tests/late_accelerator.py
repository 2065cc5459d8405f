"""A device whose copies happen late, as those of a real one may, and fail where a test says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from safetensors_core.transfer.accelerator import Pinned, Ticket
from safetensors_core.transfer.host import HostAccelerator

__all__ = ["LateAccelerator", "LateCopy"]


class LateCopy:
    """A copy that happens when somebody waits for it, or joins."""

    def __init__(self, copy: Callable[[], object], fails: BaseException | None) -> None:
        self._copy: Callable[[], object] | None = copy
        self._fails = fails

    def query(self) -> bool:
        """Whether it has happened."""
        return self._copy is None

    def synchronize(self) -> None:
        """Let it happen."""
        copy, self._copy = self._copy, None
        if copy is not None:
            copy()
            if self._fails is not None:
                raise self._fails


class LateAccelerator(HostAccelerator):
    """A device that copies nothing before it must, and then the last first.

    A slot that is filled anew too early, or a block that is used before `join`, has wrong bytes.
    """

    def __init__(self, kind: str = "late", *, refuses: BaseException | None = None) -> None:
        self.kind = kind  # type: ignore[misc]  # a ring of its own for each test
        self.copies: list[LateCopy] = []
        self.order: list[tuple[int, int]] = []
        self.blocks: list[bytearray] = []
        self.pins = 0
        self.most_pins = 1 << 30
        self.joined = 0
        self.refuses = refuses

    def pin(self, nbytes: int) -> Pinned:
        """Memory, as often as the test allows."""
        if self.pins == self.most_pins:
            raise MemoryError("no more memory")
        self.pins += 1
        return super().pin(nbytes)

    def new_block(self, nbytes: int) -> bytearray:
        """A block full of what no test writes."""
        block = bytearray(b"\xee") * nbytes
        self.blocks.append(block)
        return block

    def upload(self, pinned: Pinned, begin: int, end: int, block: bytearray, at: int) -> Ticket:
        """Note a copy."""
        number = next(i for i, known in enumerate(self.blocks) if known is block)
        self.order.append((number, at))
        late = LateCopy(
            lambda: HostAccelerator.upload(self, pinned, begin, end, block, at), self.refuses
        )
        self.copies.append(late)
        return late

    def join(self) -> None:
        """Let all copies happen, the last first."""
        self.joined += 1
        with contextlib.ExitStack() as stack:  # also those behind one that fails
            for copy in self.copies:
                stack.callback(copy.synchronize)
