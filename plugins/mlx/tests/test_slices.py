"""Slices of a file by arrays of MLX and of NumPy.

The conformance kit checks every other index, with every dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from safetensors_core import SliceError, TensorSlice, safe_open
from safetensors_mlx import save_file

GRID = np.arange(72).reshape(4, 3, 6)
MATRIX = np.array([[2, 0], [1, 1]])


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": mx.array(GRID)}, path)
    with safe_open(path, "mlx", backend=request.param) as file:
        yield file.get_slice("w")


# Arrays, and what they stand for.
ARRAYS: dict[str, tuple[Any, Any]] = {
    "integers": (mx.array([2, 0]), [2, 0]),
    "bytes": (mx.array([1, 0, 1], dtype=mx.uint8), [1, 0, 1]),
    "one integer": (mx.array(2), 2),
    "a matrix": (mx.array(MATRIX), MATRIX),
    "on the last axis": ((..., mx.array([5, -1])), (..., [5, -1])),
    "rows by a mask": (mx.array([True, False, False, True]), [0, 3]),
    "elements by a mask": (mx.array(GRID % 5 == 0), GRID % 5 == 0),
    "lazy": (mx.arange(3) + 1, [1, 2, 3]),
    "a matrix of NumPy": (MATRIX, MATRIX),
    "a mask of NumPy": (GRID % 7 == 0, GRID % 7 == 0),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_are_an_index(grid: TensorSlice, case: str) -> None:
    index, same = ARRAYS[case]
    part, expected = grid[index], GRID[same]
    assert type(part) is mx.array
    assert (part.dtype, part.shape) == (mx.int64, expected.shape)
    assert part.tolist() == expected.tolist()


@pytest.mark.parametrize("index", [mx.array([0.5]), mx.array([1j])], ids=["real", "complex"])
def test_an_index_array_must_hold_integers_or_booleans(grid: TensorSlice, index: Any) -> None:
    with pytest.raises(SliceError, match="integers or booleans"):
        grid[index]
