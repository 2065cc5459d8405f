"""Pausing the garbage collector while many small objects are made."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["paused"]


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Keep the cyclic garbage collector from running inside a block.

    Every new tensor counts as an allocation, so loading 20,000 of them makes the collector
    walk the growing result over and over although nothing in it can be garbage.

    Example:
        >>> with paused():
        ...     gc.isenabled()
        False
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
