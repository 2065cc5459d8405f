"""Slices of a file mean what they mean in NumPy, whatever TensorFlow itself can index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from safetensors_core import SliceError, TensorSlice, safe_open
from safetensors_tensorflow import save_file

GRID = np.arange(72, dtype=np.int64).reshape(4, 3, 6)


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": tf.constant(GRID)}, path)
    with safe_open(path, "tf", backend=request.param) as file:
        yield file.get_slice("w")


INDICES: dict[str, Any] = {
    "all": ...,
    "no index": (),
    "row": 2,
    "row from the end": -1,
    "element": (1, -1, 5),
    "rows": slice(1, 3),
    "past the end": slice(2, 100),
    "from before the beginning": slice(-100, 2),
    "nothing": slice(3, 1),
    "every second column": (..., slice(None, None, 2)),
    "new axis": (None, 1, None),
    "backwards": slice(None, None, -1),
    "backwards everywhere": (slice(None, None, -1),) * 3,
    "backwards from and to": (0, 0, slice(4, 1, -2)),
    "list": [3, 0, 3],
    "list with negatives": (slice(None), [-1, 0]),
    "no rows": [],
    "array": np.array([2, 0], np.uint8),
    "mask": np.array([True, False, False, True]),
    "mask as a list": [False, True, False, True],
    "mask of elements": GRID % 7 == 0,
    "two lists": ([0, 1], [2, 0]),
    "lists apart": ([0, 1], slice(None), [2, 0]),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_an_index_selects_what_numpy_selects(grid: TensorSlice, index: Any) -> None:
    part, expected = grid[index], np.asarray(GRID[index])
    assert isinstance(part, tf.Tensor)
    assert (part.dtype, tuple(part.shape)) == (tf.int64, expected.shape)
    assert np.array_equal(part.numpy(), expected)


@pytest.mark.parametrize(
    ("index", "same"),
    [
        (tf.constant([2, 0]), [2, 0]),
        (tf.constant([[1], [3]], tf.uint8), [[1], [3]]),
        (tf.constant([True, False, False, True]), [0, 3]),
        (tf.constant([], tf.int64), []),
        (tf.Variable([3, 1]), [3, 1]),
    ],
    ids=["integers", "bytes", "mask", "nothing", "variable"],
)
def test_tensors_and_variables_are_indices(grid: TensorSlice, index: Any, same: Any) -> None:
    assert np.array_equal(grid[index].numpy(), GRID[np.array(same, np.intp)])


@pytest.mark.parametrize("index", [4, (0, 3), [4], (0, 0, 0, 0), np.ones(3, bool)])
def test_what_does_not_fit_is_an_index_error(grid: TensorSlice, index: Any) -> None:
    with pytest.raises(SliceError):
        grid[index]
