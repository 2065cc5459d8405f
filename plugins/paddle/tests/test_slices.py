"""Slices of a file mean what they mean in NumPy, whatever Paddle itself can index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import InvalidInputError, SliceError, TensorSlice, safe_open
from safetensors_paddle import save_file

SHAPE = (4, 3, 6)
GRID = np.arange(72).reshape(SHAPE)
ANY_TYPE = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int32",
    "float32",
    "complex64",
    "float64",
    "int64",
]


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": paddle.to_tensor(GRID)}, path)
    with safe_open(path, "paddle", backend=request.param) as file:
        yield file.get_slice("w")


CASES: dict[str, Any] = {
    "all": ...,
    "no index": (),
    "row": 2,
    "row from the end": -1,
    "NumPy's integer": np.int64(2),
    "element": (1, -1, 5),
    "rows": slice(1, 3),
    "past the end": slice(2, 100),
    "from before the beginning": slice(-100, 2),
    "nothing": slice(3, 1),
    "every second column": (..., slice(None, None, 2)),
    "one column": (slice(None), slice(None), 2),
    "new axis": (None, 1, None),
    "backwards": slice(None, None, -1),
    "backwards everywhere": (slice(None, None, -1),) * 3,
    "backwards by two": (0, 0, slice(4, None, -2)),
    "list": [3, 0, 3],
    "list with negatives": (slice(None), [-1, 0]),
    "no rows": [],
    "integers": np.array([2, 0]),
    "mask": np.array([True, False, False, True]),
    "mask as a list": [False, True, False, True],
    "mask of elements": GRID % 7 == 0,
    "list backwards": ([0, 1], slice(None, None, -1)),
    "two lists": ([0, 1], [2, 0]),
    "a list of lists": [[0, 1], [2, 3]],
}


@pytest.mark.parametrize("case", CASES)
def test_an_index_means_what_it_means_in_numpy(grid: TensorSlice, case: str) -> None:
    index = CASES[case]
    part = grid[index]
    expected = GRID[[]] if case == "no rows" else GRID[index]
    assert isinstance(part, paddle.Tensor)
    assert part.is_contiguous()
    assert tuple(part.shape) == expected.shape
    assert np.array_equal(part.numpy(), expected)


@pytest.mark.parametrize(
    "index",
    [
        np.array([2, 0]),
        np.array([[1], [3]]),
        np.array([True, False, False, True]),
        GRID % 7 == 0,
        np.array([1, 0, 1, 1], np.uint8),
        np.array([], np.int64),
    ],
)
def test_tensors_of_paddle_are_index_arrays(grid: TensorSlice, index: Any) -> None:
    assert np.array_equal(grid[paddle.to_tensor(index)].numpy(), GRID[index])
    column = paddle.to_tensor(index[:0] if index.ndim == 3 else index.reshape(-1)[:0])
    assert tuple(grid[:, 0, column.astype("int64").reshape([-1])].shape) == (4, 0)


def test_a_tensor_without_dimensions_is_an_integer(grid: TensorSlice) -> None:
    assert np.array_equal(grid[paddle.to_tensor(2)].numpy(), GRID[2])


@pytest.mark.parametrize(
    "index", [4, -5, (0, 3), (0, 0, 0, 0), [4], [True], 1.5, "w", slice("a"), (..., ...), [0.5]]
)
def test_an_index_that_does_not_fit_is_refused_with_file_tensor_and_shape(
    grid: TensorSlice, index: Any
) -> None:
    with pytest.raises(SliceError, match=r"model\.safetensors: tensor 'w' of shape \[4, 3, 6\]: ."):
        grid[index]


@pytest.mark.parametrize("index", [paddle.to_tensor([0.5]), paddle.to_tensor([1j])])
def test_an_index_array_must_hold_integers_or_booleans(grid: TensorSlice, index: Any) -> None:
    with pytest.raises(SliceError, match="integers or booleans"):
        grid[index]


def test_more_dimensions_than_paddle_has_are_refused(grid: TensorSlice) -> None:
    assert grid[(None,) * 6].ndim == 9
    with pytest.raises(InvalidInputError, match="more than 9 dimensions"):
        grid[(None,) * 7]


@pytest.mark.parametrize("dtype", ANY_TYPE)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("index", [0, slice(None, None, 2), slice(None, None, -1), [2, 0], (1, 1)])
def test_tensors_of_every_dtype_are_sliced_bit_by_bit(
    tmp_path: Path, dtype: str, backend: Any, index: Any
) -> None:
    bits = np.random.default_rng(7).integers(0, 2 if dtype == "bool" else 256, 12 * 8)
    width = paddle.empty([1], dtype=dtype).element_size()
    raw = bits[: 12 * width].astype(np.uint8)
    elements = raw.reshape(3, 4, width)
    tensor = paddle.to_tensor(raw).view(dtype).reshape([3, 4])
    path = tmp_path / "model.safetensors"
    save_file({"w": tensor}, path)
    with safe_open(path, "paddle", backend=backend) as file:
        part = file.get_slice("w")[index]
    assert part.dtype == tensor.dtype
    assert tuple(part.shape) == elements[index].shape[:-1]
    found = part.clone().reshape([-1]).view("uint8").numpy()
    assert np.array_equal(found, elements[index].reshape(-1))


INDICES = st.tuples(
    *(
        st.integers(-size, size - 1)
        | st.slices(size)
        | st.lists(st.integers(-size, size - 1), min_size=1, max_size=4)
        for size in SHAPE
    )
)


@given(index=INDICES)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_any_index_gives_what_numpy_gives(
    tmp_path_factory: pytest.TempPathFactory, backend: Any, index: tuple[Any, ...]
) -> None:
    lists = [np.array(item) for item in index if isinstance(item, list)]
    try:
        np.broadcast(*lists)
    except ValueError:  # lists that do not go together
        index = tuple(0 if isinstance(item, list) else item for item in index)
    path = tmp_path_factory.getbasetemp() / "any-index-paddle.safetensors"
    save_file({"w": paddle.to_tensor(GRID)}, path, fsync=False)
    with safe_open(path, "paddle", backend=backend) as file:
        part = file.get_slice("w")[index]
    assert tuple(part.shape) == GRID[index].shape
    assert np.array_equal(part.numpy(), GRID[index])
