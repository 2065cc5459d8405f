"""Slices of a file mean what the same index means in NumPy, for each framework and backend.

`SAFETENSORS_TEST_EXAMPLES=20000` in the environment searches for longer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safetensors_core import Dtype, SliceError, get_framework, safe_open, save_file
from safetensors_core.reader import Backend

searching = settings(max_examples=int(os.environ.get("SAFETENSORS_TEST_EXAMPLES", "200")))

Array = npt.NDArray[Any]

NUMPY = get_framework("numpy")
TORCH = get_framework("torch")
SHAPES = [(), (5,), (0,), (4, 6), (3, 0, 2), (2, 3, 4), (1, 4, 1, 6)]
BACKENDS: tuple[Backend, ...] = ("mmap", "pread")
# torch stores F4 in pairs, and what it can select of them is documented to be less.
TORCH_DTYPES = [dtype for dtype in TORCH.dtypes if dtype is not Dtype.F4]


def array_of(dtype: Dtype, shape: tuple[int, ...]) -> Array:
    """An array in which neighbouring elements differ, as far as the type allows."""
    native = NUMPY.dtypes[dtype]
    size = int(np.prod(shape))
    if dtype.bits < 8 or dtype is Dtype.BOOL:
        high = 2 if dtype is Dtype.BOOL else 1 << dtype.bits
        bits = (np.arange(size) * 5 + 1) % high
        bits = bits.astype(np.uint8)
    else:
        generator = np.random.default_rng(size)
        bits = generator.integers(0, 256, size * native.itemsize, dtype=np.uint8)
    array: Array = bits.view(native).reshape(shape)
    return array


def name_of(dtype: Dtype, shape: tuple[int, ...]) -> str:
    return f"{dtype}{list(shape)}"


class Saved:
    """Arrays, and the file that holds them, open with each framework and backend."""

    def __init__(
        self, arrays: dict[str, Array], files: dict[tuple[str, Backend], safe_open]
    ) -> None:
        self.arrays = arrays
        self.files = files

    def __repr__(self) -> str:
        return f"<{len(self.arrays)} arrays>"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Every dtype in every shape in which it fills whole bytes."""
    arrays = {
        name_of(dtype, shape): array_of(dtype, shape)
        for dtype in Dtype
        for shape in SHAPES
        if np.prod(shape) * dtype.bits % 8 == 0
    }
    path: Path = tmp_path_factory.mktemp("slices") / "model.safetensors"
    save_file(arrays, path)
    files: dict[tuple[str, Backend], safe_open] = {
        (framework, backend): safe_open(path, framework, backend=backend)
        for framework in ("numpy", "torch")
        for backend in BACKENDS
    }
    return Saved(arrays, files)


def items(size: int) -> st.SearchStrategy[Any]:
    """What may stand for an axis in an index."""
    bounds = st.none() | st.integers(-size - 2, size + 2)
    steps = st.none() | st.integers(-size - 1, size + 1).filter(bool)
    rows = st.integers(-size, max(0, size - 1))
    lists = st.lists(rows, min_size=1, max_size=3)
    masks = st.lists(st.booleans(), min_size=size, max_size=size)
    return st.one_of(
        rows,
        rows.map(np.int64),
        rows.map(np.array),
        st.just(slice(None)),
        st.builds(slice, bounds, bounds, steps),
        lists,
        lists.map(np.array),
        st.lists(lists.filter(lambda row: len(row) == 2), min_size=1, max_size=2).map(np.array),
        masks.filter(bool),
        masks.map(lambda mask: np.array(mask, dtype=bool)),
        st.just(np.array([], dtype=np.int64)),
    )


@st.composite
def indices(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    """A shape and an index that is likely to fit it."""
    shape = draw(st.sampled_from(SHAPES))
    index = [draw(items(size)) for size in shape[: draw(st.integers(0, len(shape)))]]
    if draw(st.booleans()):
        behind = draw(st.integers(0, len(shape) - len(index)))
        index += [..., *(draw(items(size)) for size in shape[len(shape) - behind :])]
    for _ in range(draw(st.integers(0, 2))):
        index.insert(draw(st.integers(0, len(index))), None)
    if len(index) == 1 and draw(st.booleans()):
        return shape, index[0]
    return shape, tuple(index)


def expected_of(array: Array, index: Any) -> Array | None:
    """What NumPy selects; None where it refuses the index."""
    try:
        return np.asarray(array[index], dtype=array.dtype)
    except IndexError:
        return None


def only_keeps_arrays_apart(index: Any, ndim: int) -> bool:
    """Whether an index holds an Ellipsis for no axis between arrays, which we refuse."""
    if not isinstance(index, tuple) or not any(item is ... for item in index):
        return False
    dots = next(place for place, item in enumerate(index) if item is ...)
    used = sum(
        item.ndim if isinstance(item, np.ndarray) and item.dtype == bool else 1
        for item in index
        if item is not None and item is not ...
    )
    selecting = [
        any(isinstance(item, (int, list, np.ndarray, np.integer)) for item in part)
        for part in (index[:dots], index[dots + 1 :])
    ]
    arrays = any(isinstance(i, list) or (isinstance(i, np.ndarray) and i.ndim) for i in index)
    return used == ndim and all(selecting) and arrays


@searching
@given(st.sampled_from(list(Dtype)), indices())
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_of_an_array_means_what_it_means_in_memory(
    saved: Saved,
    backend: Backend,
    dtype: Dtype,
    shape_and_index: tuple[tuple[int, ...], Any],
) -> None:
    shape, index = shape_and_index
    name = name_of(dtype if np.prod(shape) * dtype.bits % 8 == 0 else Dtype.I16, shape)
    expected = expected_of(saved.arrays[name], index)
    weight = saved.files["numpy", backend].get_slice(name)
    if expected is None or only_keeps_arrays_apart(index, len(shape)):
        with pytest.raises(SliceError):
            weight[index]
        return
    found = weight[index]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@searching
@given(st.sampled_from(TORCH_DTYPES), indices())
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_of_a_tensor_means_what_it_means_in_numpy(
    saved: Saved,
    backend: Backend,
    dtype: Dtype,
    shape_and_index: tuple[tuple[int, ...], Any],
) -> None:
    shape, index = shape_and_index
    name = name_of(dtype, shape)
    expected = expected_of(saved.arrays[name], index)
    weight = saved.files["torch", backend].get_slice(name)
    if expected is None or only_keeps_arrays_apart(index, len(shape)):
        with pytest.raises(SliceError):
            weight[index]
        return
    found = weight[index].clone(memory_format=torch.contiguous_format)
    assert (found.dtype, tuple(found.shape)) == (TORCH.dtypes[dtype], expected.shape)
    assert bytes(found.reshape(-1).view(torch.uint8).numpy()) == expected.tobytes()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """How the file is read."""
    backend: Backend = request.param
    return backend


@pytest.fixture(params=["numpy", "torch"])
def framework(request: pytest.FixtureRequest) -> str:
    """Who indexes what was read."""
    name: str = request.param
    return name


def no_rows(*shape: int) -> Array:
    return np.zeros(shape, dtype=np.int64)


def no_mask(*shape: int) -> Array:
    return np.zeros(shape, dtype=bool)


EMPTY: list[tuple[tuple[int, ...], Any]] = [
    ((4, 6), no_rows(0, 2)),
    ((4, 6), no_rows(2, 0)),
    ((4, 6), no_rows(2, 0, 3).astype(np.uint64)),
    ((4, 6), (slice(None), no_rows(0, 3))),
    ((4, 6), (no_rows(0, 2), 1)),
    ((4, 6), (no_rows(0, 2), [1, 2])),
    ((4, 6), (None, no_rows(0, 2))),
    ((4, 6), [[]]),
    ((4, 6), [[], []]),
    ((4, 6), (slice(None), [[]])),
    ((4, 6), no_mask(4)),
    ((4, 6), no_mask(4, 6)),
    ((0, 6), no_mask(0, 6)),
    ((0, 6), no_mask(0)),
    ((0, 6), no_rows(0, 2)),
    ((4, 0), no_mask(4, 0)),
    ((4, 0), (slice(None), no_mask(0))),
    ((4, 0), (slice(None), no_rows(0, 3))),
]

FORMS: list[tuple[tuple[int, ...], Any]] = [
    ((4, 6), [np.True_, np.False_, np.True_, np.True_]),
    ((4, 6), [True, np.False_, True, False]),
    ((4, 6), [True, 2]),
    ((4, 6), [2, np.True_]),
    ((4, 6), [(0, 1)]),
    ((4, 6), [(0, 1), [2, 3]]),
    ((4, 6), (slice(None), [(0, 1)])),
    ((4, 6), [np.array([0, 1]), [2, 3]]),
    ((4, 6), [[True] * 6, [False] * 6, [True, False] * 3, [False] * 6]),
    ((4, 6), [np.int8(1), np.uint32(2)]),
    ((4, 6), np.array([1, 2], dtype=">i8")),
    ((4, 6), np.True_),
    ((4, 6), np.array(False)),
    ((4, 6), slice(0, 2**70)),
    ((4, 6), slice(-(2**70), 2**70, 2**70)),
    ((4, 6), slice(2**70, -(2**70), -1)),
    ((4, 6), slice(2**70, None, -(2**70))),
    ((4, 6), (slice(None), slice(2**63, None, -2))),
    ((4, 6), (slice(None), slice(4, 0, -2))),
    ((0, 6), slice(2**70, None, -1)),
]


@pytest.mark.parametrize(("shape", "index"), EMPTY + FORMS, ids=repr)
def test_every_form_of_an_index_means_the_same_for_each_framework_and_backend(
    tmp_path: Path, framework: str, backend: Backend, shape: tuple[int, ...], index: Any
) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    save_file({"w": array}, tmp_path / "model.safetensors", fsync=False)
    with safe_open(tmp_path / "model.safetensors", framework, backend=backend) as file:
        found = file.get_slice("w")[index]
    assert (tuple(found.shape), found.tolist()) == (array[index].shape, array[index].tolist())


@pytest.mark.parametrize(
    "index",
    [
        np.array([0, 1], dtype=object),
        np.array(0, dtype=object),
        np.array([], dtype=object),
        np.array([]),
        np.zeros((0, 2)),
        np.array([1.0]),
        np.array(1.0),
        np.array(["a"]),
        np.array([0], dtype="m8[s]"),
        torch.tensor([0.0]),
        torch.tensor(0.0),
        torch.zeros(0),
        torch.tensor([1j]),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([2**64 - 1], dtype=">u8"),
        torch.tensor([2**63], dtype=torch.uint64),
        [2**63],
        [2**64 - 1],
        [2**70],
        2**70,
        [[0, 1], [2]],
        [0, [1]],
        [np.zeros((0, 2), dtype=np.int64)],
        ["a"],
        "a",
        [0.0],
        [np.float64(1)],
        [np.array([1.0])],
        [None],
        [...],
        [slice(1)],
        slice(0.0, 1),
        [True, False],
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", ["rows", "columns"])
def test_what_is_no_index_is_refused_by_each_framework_and_backend(
    tmp_path: Path, framework: str, backend: Backend, place: str, index: Any
) -> None:
    array = np.arange(24, dtype=np.int32).reshape(4, 6)
    save_file({"w": array}, tmp_path / "model.safetensors", fsync=False)
    with safe_open(tmp_path / "model.safetensors", framework, backend=backend) as file:
        weight = file.get_slice("w")
        with pytest.raises(SliceError, match="tensor 'w' of shape"):
            weight[index if place == "rows" else (slice(None), index)]
