"""Which bytes an index needs, and that what is left of the index selects the same elements."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tests.indexing import select
from core.tests.raw import RawTensor, counting, take
from safetensors_core import Dtype, SliceError
from safetensors_core.slicing import expand_index, plan_read


def read(tensor: RawTensor, index: Any) -> RawTensor:
    """What a sliced read of a tensor gives."""
    plan = plan_read(index, tensor.shape, tensor.dtype.bits)
    data = b"".join(bytes(tensor.data[begin:end]) for begin, end in plan.ranges)
    assert len(data) == tensor.dtype.nbytes(prod(plan.shape))
    return take(RawTensor(tensor.dtype, plan.shape, data), plan.index)


def items(size: int) -> st.SearchStrategy[Any]:
    """What may stand for an axis in an index, a little beyond its bounds included."""
    bounds = st.none() | st.integers(-size - 2, size + 2)
    steps = st.none() | st.integers(-size - 1, size + 1).filter(bool)
    rows = st.integers(-size, max(0, size - 1))
    return st.one_of(
        rows,
        st.integers(-size - 1, size),
        st.just(slice(None)),
        st.builds(slice, bounds, bounds, steps),
        st.lists(rows, min_size=1, max_size=3),
        st.lists(st.booleans(), min_size=size, max_size=size),
    )


@st.composite
def tensors_and_indices(draw: st.DrawFn) -> tuple[RawTensor, tuple[Any, ...]]:
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 2, 3, 4, 7]), max_size=4)))
    dtype = draw(st.sampled_from([Dtype.F4, Dtype.F6_E2M3, Dtype.U8, Dtype.I16, Dtype.F64]))
    if prod(shape) * dtype.bits % 8:
        shape = (*shape, 4)
    index = [draw(items(size)) for size in shape[: draw(st.integers(0, len(shape)))]]
    if draw(st.booleans()):
        behind = draw(st.integers(0, len(shape) - len(index)))
        index += [..., *(draw(items(size)) for size in shape[len(shape) - behind :])]
    for _ in range(draw(st.integers(0, 2))):
        index.insert(draw(st.integers(0, len(index))), None)
    return counting(dtype, *shape), tuple(index)


@given(tensors_and_indices())
def test_a_sliced_read_gives_what_the_index_selects(
    given_: tuple[RawTensor, tuple[Any, ...]],
) -> None:
    tensor, index = given_
    try:
        select(index, tensor.shape)
    except IndexError:
        with pytest.raises(SliceError):
            read(tensor, index)
    else:
        assert read(tensor, index) == take(tensor, index)


@given(tensors_and_indices())
def test_the_ranges_ascend_within_the_tensor_and_do_not_touch(
    given_: tuple[RawTensor, tuple[Any, ...]],
) -> None:
    tensor, index = given_
    try:
        ranges = plan_read(index, tensor.shape, tensor.dtype.bits).ranges
    except SliceError:
        ranges = []
    ends = [0, *(end for _, end in ranges)]
    for (begin, end), previous in zip(ranges, ends, strict=False):
        assert previous <= begin < end <= len(tensor.data)
        assert begin > previous or previous == 0


KIB = 1024


@pytest.mark.parametrize(
    ("index", "shape", "ranges"),
    [
        pytest.param(3, (8, KIB), [(3 * KIB, 4 * KIB)], id="a row"),
        pytest.param(-1, (8, KIB), [(7 * KIB, 8 * KIB)], id="the last row"),
        pytest.param(slice(2, 5), (8, KIB), [(2 * KIB, 5 * KIB)], id="rows"),
        pytest.param(slice(-2, 99), (8, KIB), [(6 * KIB, 8 * KIB)], id="clamped rows"),
        pytest.param(slice(5, 2), (8, KIB), [], id="no rows"),
        pytest.param(slice(5, 2, -1), (8, KIB), [(3 * KIB, 6 * KIB)], id="rows backwards"),
        pytest.param((2, slice(5, 9)), (8, KIB), [(2 * KIB + 5, 2 * KIB + 9)], id="part of a row"),
        pytest.param((2, 3, 4), (8, 16, 32), [(1124, 1125)], id="an element"),
        pytest.param((None, 2, ...), (8, KIB), [(2 * KIB, 3 * KIB)], id="a new axis first"),
        pytest.param([7, 1, 1], (8, KIB), [(KIB, 2 * KIB), (7 * KIB, 8 * KIB)], id="a list"),
        pytest.param([2, 3], (8, KIB), [(2 * KIB, 4 * KIB)], id="neighbours are one range"),
        pytest.param([False] * 7 + [True], (8, KIB), [(7 * KIB, 8 * KIB)], id="a mask"),
        pytest.param([], (8, KIB), [], id="an empty list"),
        pytest.param((slice(None), 5), (8, KIB), [(0, 8 * KIB)], id="a column needs all rows"),
        pytest.param(..., (8, KIB), [(0, 8 * KIB)], id="everything"),
        pytest.param((), (), [(0, 1)], id="a scalar"),
        pytest.param(..., (0, KIB), [], id="an empty tensor"),
    ],
)
def test_only_the_rows_needed_are_read(
    index: Any, shape: tuple[int, ...], ranges: list[tuple[int, int]]
) -> None:
    assert plan_read(index, shape, 8).ranges == ranges


def test_rows_far_apart_are_read_one_by_one() -> None:
    row = 1 << 20
    plan = plan_read(slice(1, 8, 3), (8, row), 8)
    assert plan.ranges == [(row, 2 * row), (4 * row, 5 * row), (7 * row, 8 * row)]


def test_small_gaps_are_read_along() -> None:
    assert plan_read(slice(0, 8, 2), (8, 16), 8).ranges == [(0, 7 * 16)]


def test_rows_that_begin_inside_a_byte_are_read_with_the_whole_tensor() -> None:
    assert plan_read(1, (2, 3), 4).ranges == [(0, 3)]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (4, "index 4 is out of bounds for axis 0 of size 4"),
        ((0, -9), "index -9 is out of bounds for axis 1 of size 8"),
        ((0, 0, 0), "3 indices for a tensor of 2 dimensions"),
        ((..., 0, ...), "more than one Ellipsis"),
        ("a", "cannot be indexed with str"),
        (1.0, "cannot be indexed with float"),
        (slice(None, None, 0), "slice step cannot be zero"),
        (slice("a", None), "slice indices must be integers"),
        ([0, 4], "index 4 is out of bounds"),
        ([0.5], "must hold integers or booleans"),
        ([True, False], "a boolean index of length 2 does not fit an axis of size 4"),
        (([0], ..., 0), "'...' stands for no dimension"),
        ([[0, 1], [2]], "must hold lists of one length"),
        ([[0], 1], "must hold lists of one length"),
        ([0, [1]], "must hold lists of one length"),
        (["a"], "must hold integers or booleans"),
        ([None], "must hold integers or booleans"),
        ([2**63], "index 9223372036854775808 is out of bounds"),
        ([-(2**70)], "is out of bounds"),
        (2**70, "is out of bounds"),
    ],
)
def test_an_index_that_does_not_fit_says_why(index: Any, message: str) -> None:
    with pytest.raises(SliceError, match=re.escape(message)):
        plan_read(index, (4, 8), 8)


def test_expanding_leaves_no_ellipsis_and_no_negative_integer() -> None:
    assert expand_index((-1, ..., None, -2), (4, 5, 6)) == (3, slice(None), None, 4)


def nested(depth: int) -> list[Any]:
    values: list[Any] = [0]
    for _ in range(depth - 1):
        values = [values]
    return values


def test_a_list_may_be_as_deep_as_an_array_has_dimensions() -> None:
    assert expand_index((nested(64),), (4,)) == (nested(64),)
    endless: list[Any] = []
    endless.append(endless)
    for values in (nested(65), endless):
        with pytest.raises(SliceError, match="at most 64 deep"):
            expand_index((values,), (4,))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ([True, False, True, True], [True, False, True, True]),
        ([True, 2], [1, 2]),
        ([[False, 2], [True, 0]], [[0, 2], [1, 0]]),
        ([(0, 1)], [[0, 1]]),
        ([], []),
        ([[], []], [[], []]),
    ],
)
def test_a_list_is_a_mask_only_if_it_holds_nothing_but_booleans(
    item: list[Any], expected: list[Any]
) -> None:
    (found,) = expand_index((item,), (4,))
    assert repr(found) == repr(expected)


BOUNDS = st.none() | st.integers(-9, 9) | st.sampled_from([2**63, 2**70, -(2**63), -(2**70)])


@given(st.builds(slice, BOUNDS, BOUNDS, BOUNDS.filter(lambda step: step != 0)), st.integers(0, 7))
def test_a_slice_keeps_its_rows_when_its_bounds_are_made_to_fit(item: slice, size: int) -> None:
    (found,) = expand_index((item,), (size,))
    assert list(range(size))[found] == list(range(size))[item]
    assert all(part is None or abs(part) <= size for part in (found.start, found.stop, found.step))
