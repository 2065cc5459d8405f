"""What the reference takes for an index, and what it means."""

from __future__ import annotations

from math import prod
from types import EllipsisType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tests.indexing import select
from safetensors_core import SafetensorError
from safetensors_core.compat.indexing import checked_index

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
BOUNDS = st.none() | st.integers(-6, 6)
ITEMS: st.SearchStrategy[int | slice | EllipsisType] = st.one_of(
    st.integers(-5, 5),
    st.builds(slice, BOUNDS, BOUNDS, st.none() | st.integers(1, 3)),
    st.just(...),
)
INDICES = st.lists(ITEMS, max_size=4).map(tuple) | ITEMS


@given(SHAPES, INDICES)
def test_an_index_that_is_taken_means_what_it_means_in_numpy(
    shape: tuple[int, ...], index: Any
) -> None:
    try:
        checked = checked_index(index, shape)
    except SafetensorError:
        return
    assert select(checked, shape) == select(index, shape)


@given(SHAPES, INDICES)
def test_strictly_fewer_indices_are_taken_with_the_same_meaning(
    shape: tuple[int, ...], index: Any
) -> None:
    try:
        strict = checked_index(index, shape, strict=True)
    except (SafetensorError, OverflowError):
        return
    assert strict == checked_index(index, shape)


@given(SHAPES)
def test_a_whole_tensor_can_be_taken(shape: tuple[int, ...]) -> None:
    for index in (..., (), (..., *(slice(None) for _ in shape))):
        assert select(checked_index(index, shape), shape) == (list(range(prod(shape))), shape)


LENIENT: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], type[Exception]]] = {
    "negative bounds": (slice(-2, -1), (5, 2), (1, 2), OverflowError),
    "a negative bound past the beginning": (slice(-9, 1), (5, 2), (1, 2), OverflowError),
    "start behind stop": (slice(3, 1), (5, 2), (0, 2), SafetensorError),
    "no rows": (slice(None), (0, 2), (0, 2), SafetensorError),
    "an index beside no rows": ((..., 1), (0, 2), (0,), SafetensorError),
}


@pytest.mark.parametrize(("index", "shape", "result", "error"), LENIENT.values(), ids=LENIENT)
def test_bugs_of_the_reference_are_refused_in_strict_mode_only(
    index: Any, shape: tuple[int, ...], result: tuple[int, ...], error: type[Exception]
) -> None:
    assert select(checked_index(index, shape), shape)[1] == result
    with pytest.raises(error):
        checked_index(index, shape, strict=True)


REFUSED: dict[str, tuple[Any, str]] = {
    "too large": (5, r"slicing \[5\] with shape \[5, 2\]: index 5 out of bounds"),
    "too small": (-6, "Invalid index -6 for dimension 0 of size 5"),
    "a stop past the end": (slice(0, 9), r"slicing \[0:9\] .* index 8 out of bounds"),
    "a start past the end": (slice(5, None), r"slicing \[5:\] .* index 5 out of bounds"),
    "too many": ((0, 0, 0), "more slicing indexes than dimensions"),
    "two ellipses": ((..., ...), "Only one ellipsis"),
    "a step backwards": (slice(None, None, -1), "positive integer, got -1"),
    "no step": (slice(None, None, 0), "positive integer, got 0"),
    "a list": ([0, 1], "Non empty lists are not implemented"),
    "a new axis": (None, "Unsupported slice index at position 0"),
    "a number with a fraction": ((0, 0.5), "Unsupported slice index at position 1"),
    "a string": ("0", "Unsupported slice index at position 0"),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("index", "words"), REFUSED.values(), ids=REFUSED)
def test_an_index_is_refused_in_the_words_of_the_reference(
    index: Any, words: str, strict: bool
) -> None:
    with pytest.raises(SafetensorError, match=words):
        checked_index(index, (5, 2), strict=strict)
