"""What the reference takes for an index, where it does not leave that to PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as as_integer
from typing import Any

from safetensors_core.errors import SafetensorError

__all__ = ["checked_index"]

_SIGNED = range(1 - (1 << 63), 1 << 63)


def checked_index(
    index: Any, shape: Sequence[int], *, strict: bool = False
) -> tuple[int | slice, ...]:
    """An index that the reference takes, without its ellipsis and negative integers.

    Negative bounds of a slice, a start behind its stop, and any slice of an axis of size 0 are
    bugs of the reference rather than rules: they mean what they mean in NumPy, and are refused
    in strict mode only.

    Args:
        index: What stands between the brackets.
        shape: Shape of the tensor.
        strict: Whether the bugs are refused.

    Returns:
        An integer or slice for each dimension; the last ones may be left out.

    Raises:
        SafetensorError: The reference refuses the index; in its words.
        TypeError: A bound of a slice is no integer.

    Example:
        >>> checked_index((..., -1), (10, 5))
        (slice(None, None, None), 4)
        >>> checked_index(slice(None, 20), (10, 5))
        Traceback (most recent call last):
        safetensors_core.errors.SafetensorError: Error during slicing [:20] with shape [10, 5]: ...
    """
    if isinstance(index, list):
        if index:
            raise SafetensorError("Non empty lists are not implemented")
        index = slice(0, 0)
    items = [
        _item(item, axis, shape[axis] if axis < len(shape) else 0, strict)
        for axis, item in enumerate(_spread(index, len(shape)))
    ]
    if len(items) > len(shape):
        raise _refusal(items, shape, "more slicing indexes than dimensions in tensor")
    for axis in reversed(range(len(items))):
        item, size = items[axis], shape[axis]
        beyond = item if isinstance(item, int) else _beyond(item, size, strict)
        if beyond is not None and beyond >= size:
            reason = f"index {beyond} out of bounds for tensor dimension #{axis} of size {size}"
            raise _refusal(items, shape, reason)
    return tuple(items)


def _spread(index: Any, dimensions: int) -> list[Any]:
    """The items of an index with the dimensions that an ellipsis stands for."""
    items = list(index) if isinstance(index, tuple) else [index]
    ellipses = [position for position, item in enumerate(items) if item is Ellipsis]
    if len(ellipses) > 1:
        raise SafetensorError("Only one ellipsis (...) is allowed in slice index")
    for position in ellipses:
        items[position : position + 1] = [slice(None)] * (dimensions - (len(items) - 1))
    return items


def _item(item: Any, axis: int, size: int, strict: bool) -> int | slice:
    """A slice, or an integer that counts from the beginning."""
    if isinstance(item, slice):
        return _checked_slice(item, strict)
    try:
        number = as_integer(item)
    except TypeError:
        number = None
    if number is None or number not in _SIGNED:
        raise SafetensorError(
            f"Unsupported slice index at position {axis}: expected slice, int, or ellipsis"
        )
    if number + size < 0:
        raise SafetensorError(f"Invalid index {number} for dimension {axis} of size {size}")
    return number if number >= 0 else number + size


def _checked_slice(item: slice, strict: bool) -> slice:
    start, stop, step = (
        None if part is None else as_integer(part) for part in (item.start, item.stop, item.step)
    )
    if step is not None and step <= 0:
        raise SafetensorError(f"Slice step must be a positive integer, got {step}")
    if strict:
        if min(start or 0, stop or 0) < 0:
            raise OverflowError("can't convert negative int to unsigned")
        if start is not None and stop is not None and start > stop:
            raise SafetensorError(f"Slice start {start} lies behind its stop {stop}")
    return slice(start, stop, step)


def _beyond(item: slice, size: int, strict: bool) -> int | None:
    """The first element that a slice names and a dimension may not have."""
    start, stop = item.start or 0, item.stop
    if start < 0 or (stop is not None and stop < 0):
        return None
    if size == 0 and not strict:
        return None
    if start >= size or stop is None:
        return int(start)
    return int(stop) - 1 if stop > size else None


def _refusal(items: Sequence[int | slice], shape: Sequence[int], reason: str) -> SafetensorError:
    shown = ", ".join(str(item) if isinstance(item, int) else _shown(item) for item in items)
    return SafetensorError(f"Error during slicing [{shown}] with shape {list(shape)}: {reason}")


def _shown(item: slice) -> str:
    start, stop = ("" if part is None else str(part) for part in (item.start, item.stop))
    return f"{start}:{stop}" + ("" if item.step in {None, 1} else f":{item.step}")
