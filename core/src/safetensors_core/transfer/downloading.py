"""Bringing tensors from a device to the host: the next are copied while the caller writes these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from safetensors_core.background import Workers

__all__ = ["download"]

B = TypeVar("B")
T = TypeVar("T")


def download(groups: Iterable[T], to_host: Callable[[T], Iterable[B]]) -> Iterator[B]:
    """Copy groups of tensors to the host, one group ahead of the caller.

    Args:
        groups: What is copied at a time. Taken from the calling thread, as it is needed.
        to_host: Copies a group, in a thread of its own, and lets go of the interpreter meanwhile.

    Yields:
        The buffers of all groups, in order. Those of two groups are in memory at once, beside
        what the caller keeps.

    Example:
        >>> list(download(["ab", "c"], lambda group: [name.encode() for name in group]))
        [b'a', b'b', b'c']
    """
    with Workers(to_host, 1) as worker:
        for future in worker.ahead(groups, 1):
            buffers = deque(future.result())
            del future  # it keeps the buffers
            while buffers:
                yield buffers.popleft()
