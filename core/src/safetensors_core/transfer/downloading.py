"""Bringing tensors from a device to the host: the next are copied while the caller writes these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from safetensors_core.background import Workers

__all__ = ["download", "neighbours"]

B = TypeVar("B")
T = TypeVar("T")

#: Bytes of small tensors that are copied at a time.
_GROUP = 16 * 1024 * 1024


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


def neighbours(
    tensors: Iterable[T], nbytes: Callable[[T], int], device: Callable[[T], Hashable]
) -> Iterator[list[T]]:
    """Tensors that are copied together: those of one device that follow each other.

    Args:
        tensors: Tensors of any framework. Taken as they are needed.
        nbytes: Gives the size of one, in bytes.
        device: Tells its device from others.

    Yields:
        All of them, in the same order: up to 16 MiB together, a larger tensor alone.

    Example:
        >>> list(neighbours("aabb", lambda _: 1, device=str))
        [['a', 'a'], ['b', 'b']]
    """
    group: list[T] = []
    total = 0
    for tensor in tensors:
        total += nbytes(tensor)
        if group and (total > _GROUP or device(tensor) != device(group[0])):
            yield group
            group, total = [], nbytes(tensor)
        group.append(tensor)
        del tensor  # whoever takes the group keeps it
    if group:
        yield group
