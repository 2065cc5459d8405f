"""Slices of a file by tensors of Paddle, and the memory and dimensions of what they give.

The conformance kit checks every other index, with every dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from safetensors_core import InvalidInputError, SliceError, TensorSlice, safe_open
from safetensors_paddle import save_file

GRID = np.arange(72).reshape(4, 3, 6)


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": paddle.to_tensor(GRID)}, path)
    with safe_open(path, "paddle", backend=request.param) as file:
        yield file.get_slice("w")


ARRAYS: dict[str, Any] = {
    "one integer": np.array(2),
    "integers": np.array([2, 0]),
    "no integers": np.array([], np.int64),
    "bytes": np.array([1, 0, 1, 1], np.uint8),
    "a matrix": np.array([[1], [3]]),
    "rows by a mask": np.array([True, False, False, True]),
    "elements by a mask": GRID % 7 == 0,
}


@pytest.mark.parametrize("make", [paddle.to_tensor, np.asarray], ids=["paddle", "numpy"])
@pytest.mark.parametrize("case", ARRAYS)
def test_tensors_of_paddle_and_arrays_of_numpy_are_an_index(
    grid: TensorSlice, case: str, make: Any
) -> None:
    array = ARRAYS[case]
    part, expected = grid[make(array)], GRID[array]
    assert isinstance(part, paddle.Tensor)
    assert tuple(part.shape) == expected.shape
    assert np.array_equal(part.numpy(), expected)


def test_an_empty_tensor_selects_no_columns(grid: TensorSlice) -> None:
    assert tuple(grid[:, 0, paddle.zeros([0], "int64")].shape) == (4, 0)


@pytest.mark.parametrize("index", [paddle.to_tensor([0.5]), paddle.to_tensor([1j])])
def test_an_index_array_must_hold_integers_or_booleans(grid: TensorSlice, index: Any) -> None:
    with pytest.raises(SliceError, match="integers or booleans"):
        grid[index]


@pytest.mark.parametrize(
    "index",
    [(..., 2), (..., slice(None, None, 2)), (slice(None, None, -1),) * 3, (..., [-1, 0])],
    ids=["a column", "every second column", "backwards everywhere", "columns by a list"],
)
def test_a_slice_with_gaps_becomes_contiguous(grid: TensorSlice, index: Any) -> None:
    assert grid[index].is_contiguous()


def test_more_dimensions_than_paddle_has_are_refused(grid: TensorSlice) -> None:
    assert grid[(None,) * 6].ndim == 9
    with pytest.raises(InvalidInputError, match="more than 9 dimensions"):
        grid[(None,) * 7]
