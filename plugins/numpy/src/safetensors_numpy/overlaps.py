"""Views that share memory with other arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from safetensors_core import SharedMemoryError

__all__ = ["check_overlaps"]

_WORK = 10_000  # steps of looking for a common element, after which two views count as overlapping


def check_overlaps(arrays: Mapping[str, np.ndarray[Any, Any]], views: Iterable[str]) -> None:
    """Refuse views that have an element in common with another array.

    Columns, tiles and steps of one array that lie between each other have none.

    Args:
        arrays: Arrays by name.
        views: Names of those that are looked at; each is compared with all.

    Raises:
        SharedMemoryError: Two have an element in common, or are too entangled to tell.

    Example:
        >>> whole = np.zeros((4, 4))
        >>> check_overlaps({"left": whole[:, :2], "right": whole[:, 2:]}, ["left"])
        >>> check_overlaps({"whole": whole, "column": whole[:, 0]}, ["column"])
        Traceback (most recent call last):
        safetensors_core.errors.SharedMemoryError: tensors 'column' and 'whole' share memory, ...
    """
    looked_at = set(views)
    if not looked_at:
        return
    places = sorted((*_bounds(array), name) for name, array in arrays.items() if array.size)
    near: list[tuple[int, str]] = []  # end and name of those that reach up to here
    for begin, end, name in places:
        near = [place for place in near if place[0] > begin]
        for _, other in near:
            if {name, other} & looked_at and _share(arrays[name], arrays[other]):
                error = SharedMemoryError([sorted([name, other])], "")
                one, two = error.groups[0]
                why = "one of them does not lie there as in a file: it can only be filled alone"
                advice = "Leave out the other, and use strict=False"
                error.args = (f"tensors {one!r} and {two!r} share memory, and {why}. {advice}",)
                raise error
        near.append((end, name))


def _bounds(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Address of the first byte, and of the byte after the last one."""
    begin = array.__array_interface__["data"][0]
    end = begin + array.itemsize
    for size, stride in zip(array.shape, array.strides, strict=True):
        begin += min(0, (size - 1) * stride)
        end += max(0, (size - 1) * stride)
    return begin, end


def _share(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    try:
        # NumPy documents any number here, and types two.
        return one is not other and np.shares_memory(one, other, max_work=_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
