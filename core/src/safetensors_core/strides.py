"""What the strides of a tensor tell of its memory."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["may_overlap"]


def may_overlap(shape: Sequence[int], strides: Sequence[int], element: int = 1) -> bool:
    """Whether several elements of a tensor could be one in memory.

    Args:
        shape: The tensor's shape.
        strides: How long a step along each dimension is; negative ones lead backwards.
        element: How long an element is, in the unit of the strides.

    Returns:
        False where each step leads past all that the shorter ones reach. True also for the rare
        views whose elements interleave without meeting.

    Example:
        >>> may_overlap((2, 3), (3, 1)), may_overlap((2, 3), (1, 1)), may_overlap((2, 3), (0, 1))
        (False, True, True)
    """
    reach = element - 1
    for step, size in sorted(zip(map(abs, strides), shape, strict=True)):
        if size > 1 and step <= reach:
            return True
        reach += (size - 1) * step
    return False
