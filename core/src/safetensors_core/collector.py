"""Pausing the garbage collector while many small objects are made."""

from __future__ import annotations

import gc
import threading
from types import TracebackType

__all__ = ["paused"]


class _Pause:
    """The blocks that are running, in all threads, and what the first of them found."""

    lock = threading.Lock()
    blocks = 0
    was_enabled = False


class paused:  # noqa: N801  # used as a function: a generator would cost as much as a tensor
    """Keep the cyclic garbage collector from running inside a block.

    Every new tensor counts as an allocation, so loading 20,000 of them makes the collector
    walk the growing result over and over although nothing in it can be garbage. Blocks may
    overlap in several threads; the last one to end restores what the first one found.

    Example:
        >>> with paused():
        ...     gc.isenabled()
        False
    """

    __slots__ = ()

    def __enter__(self) -> None:
        with _Pause.lock:
            if not _Pause.blocks:
                _Pause.was_enabled = gc.isenabled()
                gc.disable()
            _Pause.blocks += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _Pause.lock:
            _Pause.blocks -= 1
            if not _Pause.blocks and _Pause.was_enabled:
                gc.enable()
