"""Pausing the garbage collector while many small objects are made."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

__all__ = ["paused"]


class _Pause:
    """The blocks that are running, in all threads, and what the first of them found."""

    lock = threading.Lock()
    blocks = 0
    was_enabled = False


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Keep the cyclic garbage collector from running inside a block.

    Every new tensor counts as an allocation, so loading 20,000 of them makes the collector
    walk the growing result over and over although nothing in it can be garbage. Blocks may
    overlap in several threads; the last one to end restores what the first one found.

    Example:
        >>> with paused():
        ...     gc.isenabled()
        False
    """
    with _Pause.lock:
        if not _Pause.blocks:
            _Pause.was_enabled = gc.isenabled()
            gc.disable()
        _Pause.blocks += 1
    try:
        yield
    finally:
        with _Pause.lock:
            _Pause.blocks -= 1
            if not _Pause.blocks and _Pause.was_enabled:
                gc.enable()
