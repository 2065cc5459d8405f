"""What NumPy's indices mean, element by element: the model that sliced reads are held to."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any


def select(index: Any, shape: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
    """Positions of the elements that an index selects in a flat tensor, and the result's shape.

    Integers, slices, Ellipsis, None, and flat lists of integers or booleans. An Ellipsis that
    stands for no axis and only keeps lists apart is an error here, as it is in the package.
    """
    items = _complete(index if isinstance(index, tuple) else (index,), shape)
    # Integers beside lists count as lists of one: NumPy broadcasts them together.
    lists = [(place, item) for place, item in enumerate(items) if isinstance(item, (int, list))]
    count = _broadcast([item for _, item in lists if isinstance(item, list)])
    axes = [i for i, item in enumerate(items) if item is not None and item is not Ellipsis]
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    stride_of = dict(zip(axes, strides, strict=True))

    # Each dimension of the result is a list of the offsets that its coordinate adds.
    dimensions: list[list[int]] = []
    together = [0] * (1 if count is None else count)
    for place, item in lists:
        values = _rows(item, shape[axes.index(place)])
        for i in range(len(together)):
            together[i] += values[i % len(values)] * stride_of[place]
    places = [place for place, _ in lists]
    dots = next((place for place, item in enumerate(items) if item is Ellipsis), len(items))
    if count is not None and min(places) < dots < max(places):
        raise IndexError("an Ellipsis for no axis keeps lists apart")
    adjacent = bool(places) and places == list(range(places[0], places[-1] + 1))
    if lists and not adjacent:
        dimensions.append(together)
    for place, item in enumerate(items):
        if item is None:
            dimensions.append([0])
        elif isinstance(item, slice):
            rows = range(*item.indices(shape[axes.index(place)]))
            dimensions.append([row * stride_of[place] for row in rows])
        elif adjacent and place == places[0]:
            dimensions.append(together)
    positions = [sum(offsets) for offsets in product(*dimensions)]
    # Integers alone leave no dimension behind.
    kept = [offsets for offsets in dimensions if count is not None or offsets is not together]
    return positions, tuple(map(len, kept))


def _complete(items: tuple[Any, ...], shape: tuple[int, ...]) -> list[Any]:
    """One item for each axis, and None for each new one; masks become lists of positions."""
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > len(shape):
        raise IndexError("too many indices")
    completed: list[Any] = []
    for item in items if Ellipsis in items else (*items, Ellipsis):
        if item is Ellipsis:
            # One that stands for nothing is kept: NumPy lets it keep lists apart.
            completed += [slice(None)] * (len(shape) - used) or [Ellipsis]
        elif isinstance(item, list) and item and all(isinstance(value, bool) for value in item):
            axis = sum(other is not None and other is not Ellipsis for other in completed)
            if len(item) != shape[axis]:
                raise IndexError("boolean index of the wrong length")
            completed.append([row for row, chosen in enumerate(item) if chosen])
        else:
            completed.append(item)
    return completed


def _broadcast(lists: list[list[int]]) -> int | None:
    """Common length of lists, None if there are none."""
    lengths = {len(values) for values in lists}
    if len(lengths - {1}) > 1:
        raise IndexError("lists of different lengths")
    return max(lengths - {1}, default=1) if lengths else None


def _rows(item: int | list[int], size: int) -> list[int]:
    values = [item] if isinstance(item, int) else item
    for value in values:
        if not -size <= value < size:
            raise IndexError(f"index {value} is out of bounds")
    return [value % size for value in values]
