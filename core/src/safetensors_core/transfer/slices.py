"""Slices of tensors on a device: where to apply them."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["indexes_there"]


def indexes_there(index: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """Whether what was read for a device is indexed there sooner than on the host.

    The host takes slices apart at the speed of one core. But a device shall not be given much
    more than what is asked for: it has less memory, and copies take time as well.

    Args:
        index: An index without Ellipsis, whose slices have bounds.
        shape: The shape of what was read.

    Returns:
        Whether slices alone select half of the elements or more.

    Example:
        >>> columns = slice(None), slice(0, 8, 2)
        >>> indexes_there(columns, (8, 8)), indexes_there(columns, (8, 16))
        (True, False)
    """
    axes = [item for item in index if item is not None]
    if not all(isinstance(item, slice) for item in axes):
        # One row, or rows that are listed: what the index leaves is little or is gathered.
        return False
    counts = (len(range(*item.indices(size))) for item, size in zip(axes, shape, strict=False))
    return 2 * math.prod(counts) >= math.prod(shape[: len(axes)])
