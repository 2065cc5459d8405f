"""A slice of a tensor in a file holds what NumPy would select, for indices at random too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import Dtype, Framework, SliceError, safe_open, save_file
from safetensors_core.header import TensorInfo
from safetensors_core.selection import select
from safetensors_core.testing.observation import difference
from safetensors_core.testing.samples import bytes_of, data_of, make

SHAPE = (5, 4, 8)

INDICES: dict[str, Any] = {
    "everything": ...,
    "no index": (),
    "a row": 2,
    "a row from the end": -1,
    "rows": slice(1, 3),
    "rows past the end": slice(3, 100),
    "rows from before the beginning": slice(-100, 2),
    "no rows": slice(3, 1),
    "every second row": slice(None, None, 2),
    "rows backwards": slice(None, None, -1),
    "rows backwards behind a new axis": (None, slice(None, None, -1)),
    "rows backwards within rows": (slice(1, 3), slice(None, None, -1)),
    "a matrix of one column": (slice(None), slice(1, 2)),
    "rows of a row": (1, slice(1, 3)),
    "columns behind an ellipsis": (..., slice(0, 8, 1)),
    "a new axis": (None, 1, None),
    "rows by a list": [3, 0, 3],
    "rows by a list, from the end": [-1, 0],
    "no rows by a list": [],
    "rows by a mask": [True, False, False, True, False],
    "rows by nested lists": [[0, 1], [2, 3]],
    "rows by a mask of two axes": [
        [row == 3 or column == 1 for column in range(4)] for row in range(5)
    ],
    "lists on two axes": ([0, 1], [2, 0]),
    "a list and an axis backwards": ([0, 1], slice(None, None, -1)),
}
ELEMENTS: dict[str, Any] = {
    "an element": (1, -1, 7),
    "an element and an ellipsis": (1, -1, 7, ...),
    "a column": (slice(None), slice(None), 5),
    "every second column": (..., slice(None, None, 2)),
    "columns backwards": (..., slice(None, None, -1)),
    "columns backwards by two": (0, 0, slice(None, None, -2)),
    "columns backwards, from and to": (0, 0, slice(4, 1, -2)),
    "columns backwards to nothing": (0, 0, slice(1, 4, -1)),
    "backwards everywhere": (slice(None, None, -1),) * 3,
    "columns by a list": (slice(None), [-1, 0], slice(2, 5)),
    "lists with an axis between": ([0, 1], slice(None), [7, 0]),
    "a list and an integer": ([0, 4, 1], slice(1, 3), 6),
    "an integer and a list with an axis between": (1, slice(None), [7, 0]),
    "nested lists": ([[0, 1], [2, 3]], [[1], [0]]),
    "a mask of the middle": (slice(None), [False, True, True, False], 0),
    "a mask of two axes and columns backwards": (
        [[row == 3 or column == 1 for column in range(4)] for row in range(5)],
        slice(None, None, -1),
    ),
    "a mask of all elements": [
        [[(row + column + item) % 3 == 0 for item in range(8)] for column in range(4)]
        for row in range(5)
    ],
}


@pytest.fixture(params=["mmap", "pread"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"{request.param}.safetensors"


def opened(framework: Framework, path: Path) -> safe_open:
    """A file, with the backend that its name says."""
    backend: Any = path.stem
    return safe_open(path, framework, framework.devices()[0], backend=backend)


def check(framework: Framework, path: Path, dtype: Dtype, index: Any) -> None:
    """Read a slice of a file, and compare it with what an index selects of the bytes."""
    data = memoryview(data_of(dtype, SHAPE))
    expected, info = select(data, TensorInfo(dtype, SHAPE, (0, len(data))), index)
    if not path.exists():
        save_file({"w": make(framework, dtype, SHAPE)}, path)
    with opened(framework, path) as file:
        part = file.get_slice("w")[index]
    assert framework.is_tensor(part), f"index gave {type(part).__name__} instead of a tensor"
    assert framework.describe(part).shape == info.shape, f"[{index!r}] has another shape"
    assert framework.describe(part).dtype is dtype, f"[{index!r}] has another dtype"
    other = difference(bytes_of(framework, part), bytes(expected))
    assert not other, f"[{index!r}] selects other elements"


@pytest.mark.parametrize("name", INDICES)
def test_an_index_of_rows_selects_what_numpy_selects(
    framework: Framework, path: Path, dtype: Dtype, name: str
) -> None:
    check(framework, path, dtype, INDICES[name])


@pytest.mark.parametrize("name", ELEMENTS)
def test_an_index_of_elements_selects_what_numpy_selects(
    framework: Framework, path: Path, byte_dtype: Dtype, name: str
) -> None:
    check(framework, path, byte_dtype, ELEMENTS[name])


def items(size: int) -> st.SearchStrategy[Any]:
    rows = st.integers(-size, size - 1)
    return (
        rows
        | st.slices(size)
        | st.lists(rows, min_size=1, max_size=3)
        | st.lists(st.booleans(), min_size=size, max_size=size)
    )


@st.composite
def indices(draw: st.DrawFn) -> tuple[Any, ...]:
    count = draw(st.integers(0, len(SHAPE)))
    index = [draw(items(size)) for size in SHAPE[:count]]
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), None)
    return tuple(index)


def test_an_index_at_random_selects_what_numpy_selects(
    framework: Framework, path: Path, sized_dtype: Dtype
) -> None:
    @given(indices())
    def holds(index: tuple[Any, ...]) -> None:
        try:
            data = memoryview(data_of(sized_dtype, SHAPE))
            select(data, TensorInfo(sized_dtype, SHAPE, (0, len(data))), index)
        except SliceError:  # lists that do not go together
            with pytest.raises(SliceError):
                check(framework, path, sized_dtype, index)
        else:
            check(framework, path, sized_dtype, index)

    holds()


def test_a_scalar_can_be_indexed_with_an_ellipsis(
    framework: Framework, path: Path, byte_dtype: Dtype
) -> None:
    save_file({"w": make(framework, byte_dtype, ())}, path)
    with opened(framework, path) as file:
        part = file.get_slice("w")[...]
    assert framework.describe(part).shape == ()
    assert not difference(bytes_of(framework, part), data_of(byte_dtype, ()))


UNFIT: list[Any] = [
    *(5, -6, (0, 4), (0, 0, 0, 0), "w", 1.5),
    *([5], [True], (0, [4]), (0, [True] * 3), ([0, 1], [0, 1, 2])),
]


@pytest.mark.parametrize("index", UNFIT, ids=repr)
def test_an_index_that_does_not_fit_is_refused(
    framework: Framework, path: Path, some_dtype: Dtype, index: Any
) -> None:
    save_file({"w": make(framework, some_dtype, SHAPE)}, path)
    with (
        opened(framework, path) as file,
        pytest.raises(SliceError, match=r"'w' of shape \[5, 4, 8\]"),
    ):
        file.get_slice("w")[index]
