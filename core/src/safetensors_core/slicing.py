"""A NumPy-style index → the bytes to read, and the index left to apply to them.

Only whole rows of the leading dimensions are told apart, because only they are contiguous in a
file: `x[3]`, `x[10:20]`, `x[::4]`, `x[[1, 5]]` and `x[2, 5:9]` read what they select, `x[:, 5]`
reads all rows and leaves the column to the framework.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import msgspec

from safetensors_core.errors import SliceError

__all__ = ["ReadPlan", "expand_index", "plan_read"]

# Reading over a gap is cheaper than a second request for the bytes behind it, up to about
# what a disk reads ahead by itself.
_GAP = 64 * 1024

# NumPy and torch both have no more.
_MAX_DIMENSIONS = 64

_INDEX_BITS = 64
_RAGGED = "a list used as an index must hold lists of one length, at most 64 deep"


class ReadPlan(msgspec.Struct, frozen=True):
    """What to read of a tensor.

    Attributes:
        ranges: First byte and byte after the last one of each range, counted from the
            tensor's beginning, ascending.
        shape: Shape of what the ranges hold together.
        index: What is left to apply to a tensor of that shape.

    Example:
        >>> plan_read(2, (4, 8), 32)
        ReadPlan(ranges=[(64, 96)], shape=(1, 8), index=(0,))
    """

    ranges: list[tuple[int, int]]
    shape: tuple[int, ...]
    index: tuple[Any, ...]


def plan_read(index: Any, shape: Sequence[int], bits: int) -> ReadPlan:
    """Find the bytes that an index needs.

    Args:
        index: What stands in brackets: integers, slices, Ellipsis, None, lists, arrays of
            integers or booleans, or a tuple of them.
        shape: Shape of the tensor in the file.
        bits: Width of an element in bits.

    Returns:
        The ranges to read and the index to apply to what they hold.

    Raises:
        SliceError: The index does not fit the shape or is of a kind that NumPy has not.

    Example:
        >>> plan_read((slice(1, 3), slice(0, 2)), (4, 8), 8)
        ReadPlan(ranges=[(8, 24)], shape=(2, 8), index=(slice(None, None, None), slice(0, 2, None)))
    """
    shape = tuple(shape)
    items = expand_index(index if isinstance(index, tuple) else (index,), shape)
    begin, end = 0, prod(shape) * bits // 8
    whole = ReadPlan([(begin, end)] if end else [], shape, items)
    kept: list[int] = []  # shape of what is read, axis by axis
    left: list[Any] = []  # index to apply to it
    for position, item in enumerate(items):
        axis = len(kept)
        if item is None:
            left.append(None)
            continue
        if axis == len(shape):  # a trailing boolean or an empty array: nothing to narrow
            return whole
        row_bits = prod(shape[axis + 1 :]) * bits
        if row_bits % 8:
            return whole
        row, size = row_bits // 8, shape[axis]
        if _is_row(item):
            begin += item * row
            end = begin + row
            kept.append(1)
            left.append(0)
            continue
        rest = items[position + 1 :]
        if isinstance(item, slice):
            ranges, count, local = _ranges(*_slice_rows(item, size), row, begin)
        else:
            selected = _selected_rows(item, size)
            # Arrays on several axes are broadcast together; rows are then not independent.
            if selected is None or any(_is_array(other) for other in rest):
                break
            ranges, count, local = _ranges(*selected, row, begin)
        return ReadPlan(ranges, (*kept, count, *shape[axis + 1 :]), (*left, local, *rest))
    else:
        position = len(items)
    ranges = [(begin, end)] if end > begin else []
    return ReadPlan(ranges, (*kept, *shape[len(kept) :]), (*left, *items[position:]))


def expand_index(items: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Bring an index into one form, so that every framework takes it for the same.

    Args:
        items: The items of an index.
        shape: Shape of the tensor.

    Returns:
        The same index without Ellipsis. Integers are plain, not negative and within bounds;
        slices have bounds and steps no larger than their axis; lists, of any depth, hold only
        integers of 64 bits or only booleans, or nothing; arrays are as they were given, and of
        an integer or boolean type.

    Raises:
        SliceError: The index does not fit the shape or is of a kind that NumPy has not.

    Example:
        >>> expand_index((..., -1), (4, 8))
        (slice(None, None, None), 7)
        >>> expand_index((slice(1, 2**70), [(True, 2)]), (4, 8))
        (slice(1, 4, None), [[1, 2]])
    """
    items = tuple(_plain(item) for item in items)
    used = sum(_axes(item) for item in items)
    if used > len(shape):
        raise SliceError(f"{used} indices for a tensor of {len(shape)} dimensions")
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise SliceError("an index holds more than one Ellipsis ('...')")
    if dots:
        before, after = items[: dots[0]], items[dots[0] + 1 :]
        if used == len(shape):
            _check_apart(before, after)
        items = before + (slice(None),) * (len(shape) - used) + after
    axis = 0
    checked = []
    for item in items:
        if _is_row(item):
            size = shape[axis]
            if not -size <= item < size:
                raise SliceError(f"index {item} is out of bounds for axis {axis} of size {size}")
            item %= size
        elif isinstance(item, slice):
            item = _clamped(item, shape[axis])
        axis += _axes(item)
        checked.append(item)
    return tuple(checked)


def _clamped(item: slice, size: int) -> slice:
    """The same rows by bounds that fit a machine word."""
    rows = range(*item.indices(size))
    if rows == range(size):
        return slice(None)
    if not rows:
        return slice(0, 0)
    first, last = rows[0], rows[-1]
    if first == last or rows.step == 1:
        return slice(first, last + 1)
    if rows.step > 0:
        return slice(first, last + 1, rows.step)
    # Before the first row is no place that an integer could name: -1 is the last one.
    return slice(first, last - 1 if last else None, rows.step)


def _check_apart(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    """Refuse an Ellipsis whose only effect, in NumPy, is another order of the dimensions."""
    selecting = [[i for i in items if _is_array(i) or _is_row(i)] for items in (before, after)]
    if all(selecting) and any(_is_array(item) for item in before + after):
        raise SliceError(
            "'...' stands for no dimension here, between integers or arrays that select "
            "together: leave it out"
        )


def _is_row(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _plain(item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return item
    if isinstance(item, list):
        return _plain_list(item)
    if isinstance(item, slice):
        try:
            item.indices(0)
        except (TypeError, ValueError) as error:
            raise SliceError(f"{item}: {error}") from None
        return item
    if getattr(item, "shape", None):  # an array of any library, not a scalar of one
        _check_array(item)
        return item
    try:
        return _plain_scalar(item)
    except TypeError:
        raise SliceError(
            f"a tensor cannot be indexed with {type(item).__name__}: use integers, slices, "
            "'...', None, lists or arrays of integers or booleans"
        ) from None


def _plain_scalar(item: Any) -> int:
    """An integer or a bool from one of any library."""
    if isinstance(item, bool) or _kind(item) == "b":
        return bool(item)
    return operator.index(item)


def _plain_list(item: list[Any]) -> list[Any]:
    """A nested list that holds only integers or only booleans."""
    kinds: set[type] = set()
    lengths: list[int] = []
    plain = _nested(item, 0, lengths, kinds)
    # NumPy takes a mixture of both for integers.
    return _integers(plain) if kinds == {bool, int} else plain


def _nested(values: Any, depth: int, lengths: list[int], kinds: set[type]) -> list[Any]:
    """Copy a nested sequence, and collect its shape and the types in it."""
    if depth == len(lengths):
        if kinds or depth == _MAX_DIMENSIONS:
            raise SliceError(_RAGGED)
        lengths.append(len(values))
    elif lengths[depth] != len(values):
        raise SliceError(_RAGGED)
    copy: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)) or getattr(value, "shape", None):
            if not isinstance(value, (list, tuple)):
                _check_array(value)
                if len(value.shape) > 1 and 0 in value.shape:
                    raise SliceError("a list used as an index holds an array without elements")
                value = values_of(value)
            copy.append(_nested(value, depth + 1, lengths, kinds))
            continue
        try:
            leaf = _plain_scalar(value)
        except TypeError:
            raise SliceError("a list used as an index must hold integers or booleans") from None
        if depth + 1 != len(lengths):
            raise SliceError(_RAGGED)
        _check_width(leaf)
        kinds.add(type(leaf))
        copy.append(leaf)
    return copy


def _integers(values: list[Any]) -> list[Any]:
    return [_integers(value) if isinstance(value, list) else int(value) for value in values]


def _check_array(item: Any) -> None:
    kind = _kind(item)
    if kind not in {"b", "i", "u"}:
        found = getattr(item, "dtype", type(item).__name__)
        raise SliceError(f"an array used as an index must hold integers or booleans, not {found}")
    # Frameworks would count what is beyond 63 bits from the end.
    if kind == "u" and getattr(item.dtype, "itemsize", 8) == 8:
        _plain_list(values_of(item))


def values_of(array: Any) -> Any:
    """What an array of any library holds, as lists."""
    # TensorFlow's tensors only have a list by way of NumPy.
    return (array if hasattr(array, "tolist") else array.numpy()).tolist()


def _check_width(value: int) -> None:
    if value.bit_length() >= _INDEX_BITS:
        raise SliceError(f"index {value} is out of bounds for an axis of any size")


def _kind(item: Any) -> str:
    """NumPy's letter for a type of booleans, integers or unsigned integers, of any library."""
    dtype = getattr(item, "dtype", None)
    kind = getattr(dtype, "kind", None)
    if isinstance(kind, str):
        return kind
    # Paddle writes them in capitals.
    name = str(getattr(dtype, "name", None) or dtype).rpartition(".")[2].lower()
    return name[0] if name.startswith(("bool", "int", "uint")) else ""


def _is_array(item: Any) -> bool:
    return item is not None and item is not Ellipsis and not isinstance(item, (int, slice))


def _axes(item: Any) -> int:
    """How many dimensions of the tensor an item of an index takes up."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return _dimensions(item) if _is_array(item) and is_boolean(item) else 1


def is_boolean(item: Any) -> bool:
    """Whether a list or array used as an index is a mask."""
    if isinstance(item, list):
        return bool(item) and is_boolean(item[0])
    return isinstance(item, bool) or _kind(item) == "b"


def _dimensions(item: Any) -> int:
    if isinstance(item, list):
        return 1 + (_dimensions(item[0]) if item else 0)
    return len(getattr(item, "shape", ()))


def _slice_rows(item: slice, size: int) -> tuple[range, slice]:
    """Rows of a slice in ascending order, and the slice that is left of it."""
    rows = range(*item.indices(size))
    if rows.step < 0:
        return rows[::-1], slice(None, None, -1)
    return rows, slice(None)


def _selected_rows(item: Any, size: int) -> tuple[list[int], Any] | None:
    """Rows that a flat list or array selects, and the list that selects them among those."""
    if isinstance(item, bool) or _dimensions(item) != 1:
        return None
    values = item if isinstance(item, list) else values_of(item)
    if is_boolean(item):
        if len(values) != size:
            raise SliceError(
                f"a boolean index of length {len(values)} does not fit an axis of size {size}"
            )
        values = [row for row, chosen in enumerate(values) if chosen]
    for row in values:
        if not -size <= row < size:
            raise SliceError(f"index {row} is out of bounds for an axis of size {size}")
    wanted = [row % size for row in values]
    rows = sorted(set(wanted))
    place = {row: i for i, row in enumerate(rows)}
    return rows, [place[row] for row in wanted]


def _ranges(
    rows: Sequence[int], local: Any, row: int, begin: int
) -> tuple[list[tuple[int, int]], int, Any]:
    """Byte ranges of ascending rows; small gaps between them are read along."""
    if not rows:
        return [], 0, local
    if isinstance(rows, range) and (rows.step - 1) * row <= _GAP:
        first, last = rows[0], rows[-1]
        if rows.step > 1:
            local = slice(None, None, rows.step * (local.step or 1))
        return (
            [(begin + first * row, begin + (last + 1) * row)] if row else [],
            last - first + 1,
            local,
        )
    return _merge((begin + i * row, begin + (i + 1) * row) for i in rows), len(rows), local


def _merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in ranges:
        if begin == end:
            continue
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return merged
