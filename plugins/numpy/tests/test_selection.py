"""What core selects from bytes is what NumPy selects from an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from safetensors_core import Dtype, SliceError, TensorInfo
from safetensors_core.selection import select

SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 5]), max_size=4).map(tuple)


def numbers(*shape: int) -> Any:
    return np.arange(np.prod(shape, dtype=int), dtype="<i2").reshape(shape)


def selected(array: Any, index: Any) -> Any:
    data, info = select(
        memoryview(bytearray(b"..") + array.tobytes()),
        TensorInfo(Dtype.I16, array.shape, (2, 2 + array.nbytes)),
        index,
    )
    assert info.data_offsets == (0, len(data))
    assert not data.readonly
    return np.frombuffer(data, "<i2").reshape(info.shape)


@given(st.data())
def test_a_basic_index_selects_what_it_selects_of_an_array(data: st.DataObject) -> None:
    array = numbers(*data.draw(SHAPES))
    index = data.draw(arrays.basic_indices(array.shape, allow_newaxis=True))
    np.testing.assert_array_equal(selected(array, index), array[index], strict=True)


@given(st.data())
def test_arrays_of_integers_select_what_they_select_of_an_array(data: st.DataObject) -> None:
    shape = data.draw(SHAPES.filter(lambda shape: shape and 0 not in shape))
    array = numbers(*shape)
    index = data.draw(arrays.integer_array_indices(shape))
    np.testing.assert_array_equal(selected(array, index), array[index], strict=True)
    lists = tuple(item.tolist() if item.size else item for item in index)
    np.testing.assert_array_equal(selected(array, lists), array[index], strict=True)


@given(st.data())
def test_mixed_items_select_what_they_select_of_an_array(data: st.DataObject) -> None:
    array = numbers(*data.draw(SHAPES))
    items: list[Any] = []
    axis = 0
    while axis < array.ndim:
        size = array.shape[axis]
        kind = data.draw(
            st.sampled_from(["slice", "integer", "list", "mask", "mask of two", "new"])
        )
        if kind == "new":
            items.append(None)
            continue
        if kind == "integer" and size:
            items.append(data.draw(st.integers(-size, size - 1)))
        elif kind == "list" and size:
            rows = st.integers(-size, size - 1)
            items.append(data.draw(st.lists(rows, min_size=2, max_size=2)))
        elif kind == "mask":
            items.append(data.draw(arrays.arrays(bool, size)))
        elif kind == "mask of two" and axis + 1 < array.ndim:
            items.append(data.draw(arrays.arrays(bool, array.shape[axis : axis + 2])))
            axis += 1
        else:
            items.append(data.draw(st.slices(size)))
        axis += 1
    index = tuple(items)
    try:
        expected = array[index]
    except IndexError:
        with pytest.raises(SliceError):
            selected(array, index)
    else:
        np.testing.assert_array_equal(selected(array, index), expected, strict=True)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (1, 0, 2)])
def test_an_array_without_elements_keeps_its_shape(shape: tuple[int, ...]) -> None:
    array, rows = numbers(2, 3), np.empty(shape, int)
    np.testing.assert_array_equal(selected(array, rows), array[rows], strict=True)
    index = (slice(None), rows)
    np.testing.assert_array_equal(selected(array, index), array[index], strict=True)


@pytest.mark.parametrize("mask", [True, False, np.True_])
def test_a_mask_without_dimensions_keeps_all_or_nothing(mask: Any) -> None:
    array = numbers(2, 3)
    np.testing.assert_array_equal(selected(array, (mask, 1)), array[mask, 1], strict=True)
    np.testing.assert_array_equal(selected(array, mask), array[mask], strict=True)


@pytest.mark.parametrize(
    ("index", "cause"),
    [
        ([2], "index 2 is out of bounds for axis 0 of size 2"),
        ((0, [-4]), "index -4 is out of bounds for axis 1 of size 3"),
        (([0, 1], [0, 1, 2]), "cannot select together"),
        ([True], r"a mask of shape \[1\]"),
        (np.zeros((2, 2), bool), r"a mask of shape \[2, 2\]"),
        ((0, 0, 0), "3 indices"),
    ],
    ids=str,
)
def test_an_index_that_does_not_fit_is_refused(index: Any, cause: str) -> None:
    with pytest.raises(SliceError, match=cause):
        selected(numbers(2, 3), index)
