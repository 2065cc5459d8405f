"""Slices of a file mean what they mean in NumPy, whatever MLX itself can index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import Dtype, SliceError, TensorSlice, get_framework, safe_open
from safetensors_mlx import save_file

SHAPE = (4, 3, 6)
GRID = np.arange(72).reshape(SHAPE)


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": mx.array(GRID)}, path)
    with safe_open(path, "mlx", backend=request.param) as file:
        yield file.get_slice("w")


CASES: dict[str, Any] = {
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
    "backwards by two": (0, 0, slice(None, None, -2)),
    "backwards to nothing": (0, 0, slice(1, 4, -1)),
    "list": [3, 0, 3],
    "list with negatives": (slice(None), [-1, 0]),
    "list of lists": [[0, 1], [2, 3]],
    "no rows": [],
    "mask as a list": [False, True, False, True],
    "two lists": ([0, 1], [2, 0]),
    "list backwards": ([0, 1], slice(None, None, -1)),
    "array": np.array([2, 0]),
    "mask": GRID % 7 == 0,
}
# By MLX's arrays, and what they stand for.
ARRAYS: dict[str, tuple[Any, Any]] = {
    "integers": (mx.array([2, 0]), [2, 0]),
    "bytes": (mx.array([1, 0, 1], dtype=mx.uint8), [1, 0, 1]),
    "one integer": (mx.array(2), 2),
    "matrix": (mx.array([[2, 0], [1, 1]]), [[2, 0], [1, 1]]),
    "on the last axis": ((..., mx.array([5, -1])), (..., [5, -1])),
    "rows by mask": (mx.array([True, False, False, True]), [0, 3]),
    "elements by mask": (mx.array(GRID % 5 == 0), GRID % 5 == 0),
    "lazy": (mx.arange(3) + 1, [1, 2, 3]),
}


def assert_selected(part: Any, expected: Any) -> None:
    assert type(part) is mx.array
    assert part.dtype == mx.int64
    assert part.shape == expected.shape
    assert part.tolist() == expected.tolist()


@pytest.mark.parametrize("case", CASES)
def test_an_index_means_what_it_means_in_numpy(grid: TensorSlice, case: str) -> None:
    assert_selected(grid[CASES[case]], GRID[CASES[case]])


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_mlx_are_an_index(grid: TensorSlice, case: str) -> None:
    index, same = ARRAYS[case]
    assert_selected(grid[index], GRID[same])


@pytest.mark.parametrize(
    "index", [4, -5, (0, 3), (0, 0, 0, 0), [4], [True], 1.5, "w", slice("a"), (..., ...), [0.5]]
)
def test_an_index_that_does_not_fit_is_refused_with_file_tensor_and_shape(
    grid: TensorSlice, index: Any
) -> None:
    with pytest.raises(SliceError, match=r"model\.safetensors: tensor 'w' of shape \[4, 3, 6\]: ."):
        grid[index]


@pytest.mark.parametrize("index", [mx.array([0.5]), mx.array([1j])], ids=["real", "complex"])
def test_an_index_array_must_hold_integers_or_booleans(grid: TensorSlice, index: Any) -> None:
    with pytest.raises(SliceError, match="integers or booleans"):
        grid[index]


INDICES = st.tuples(
    *(
        st.integers(-size, size - 1)
        | st.slices(size)
        | st.lists(st.integers(-size, size - 1), min_size=2, max_size=2)
        for size in SHAPE
    )
)


@given(index=INDICES)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_any_index_gives_what_numpy_gives(
    tmp_path_factory: pytest.TempPathFactory, backend: Any, index: tuple[Any, ...]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-index-mlx.safetensors"
    if not path.exists():
        save_file({"w": mx.array(GRID)}, path, fsync=False)
    with safe_open(path, "mlx", backend=backend) as file:
        assert_selected(file.get_slice("w")[index], GRID[index])


@pytest.mark.parametrize("code", get_framework("mlx").dtypes)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize(
    "index", [1, slice(None, None, -2), (slice(1, 3), ..., [0, 4]), (3, 2, 5), slice(2, 2)], ids=str
)
def test_every_dtype_can_be_sliced(tmp_path: Path, code: Dtype, backend: Any, index: Any) -> None:
    dtype = get_framework("mlx").dtypes[code]
    with mx.stream(mx.cpu):
        array = mx.array(GRID % 2 if code is Dtype.BOOL else GRID).astype(dtype)
    path = tmp_path / "model.safetensors"
    save_file({"w": array}, path, fsync=False)
    with safe_open(path, "mlx", backend=backend) as file:
        part = file.get_slice("w")[index]
    assert part.dtype == dtype
    whole = np.array(array.tolist())
    assert part.tolist() == whole[index].tolist()
