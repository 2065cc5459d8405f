"""Slices of a file by tensors and variables of TensorFlow, and by arrays of NumPy.

The conformance kit checks every other index, with every dtype.
"""

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


# Arrays, and what they stand for.
ARRAYS: dict[str, tuple[Any, Any]] = {
    "integers": (tf.constant([2, 0]), [2, 0]),
    "bytes": (tf.constant([[1], [3]], tf.uint8), np.array([[1], [3]])),
    "one integer": (tf.constant(2), 2),
    "no integers": (tf.constant([], tf.int64), []),
    "a variable": (tf.Variable([3, 1]), [3, 1]),
    "rows by a mask": (tf.constant([True, False, False, True]), [0, 3]),
    "elements by a mask": (tf.constant(GRID % 7 == 0), GRID % 7 == 0),
    "bytes of NumPy": (np.array([2, 0], np.uint8), [2, 0]),
    "a mask of NumPy": (np.array([True, False, False, True]), [0, 3]),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_tensors_variables_and_arrays_of_numpy_are_an_index(grid: TensorSlice, case: str) -> None:
    index, same = ARRAYS[case]
    part, expected = grid[index], GRID[same]
    assert isinstance(part, tf.Tensor)
    assert (part.dtype, tuple(part.shape)) == (tf.int64, expected.shape)
    assert np.array_equal(part.numpy(), expected)


@pytest.mark.parametrize(
    "index",
    [tf.constant([4]), tf.constant([True] * 3), np.ones(3, bool)],
    ids=["a tensor", "a mask", "a mask of NumPy"],
)
def test_an_array_that_does_not_fit_is_refused_with_file_tensor_and_shape(
    grid: TensorSlice, index: Any
) -> None:
    with pytest.raises(SliceError, match=r"model\.safetensors: tensor 'w' of shape \[4, 3, 6\]: ."):
        grid[index]
