"""Slices of a file mean what they mean in NumPy, whatever torch itself can index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import SliceError, TensorSlice, safe_open
from safetensors_torch import save_file

RARE = [
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
    torch.float8_e8m0fnu,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SHAPE = (4, 3, 6)
GRID = torch.arange(72, dtype=torch.int64).reshape(SHAPE)


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": GRID}, path)
    with safe_open(path, "torch", backend=request.param) as file:
        yield file.get_slice("w")


def backwards(*axes: int) -> torch.Tensor:
    return GRID.flip(axes)


CASES: dict[str, tuple[Any, Callable[[], torch.Tensor]]] = {
    "all": (..., lambda: GRID),
    "no index": ((), lambda: GRID),
    "row": (2, lambda: GRID[2]),
    "row from the end": (-1, lambda: GRID[3]),
    "element": ((1, -1, 5), lambda: GRID[1, 2, 5]),
    "rows": (slice(1, 3), lambda: GRID[1:3]),
    "past the end": (slice(2, 100), lambda: GRID[2:]),
    "from before the beginning": (slice(-100, 2), lambda: GRID[:2]),
    "nothing": (slice(3, 1), lambda: GRID[3:1]),
    "every second column": ((..., slice(None, None, 2)), lambda: GRID[..., ::2]),
    "new axis": ((None, 1, None), lambda: GRID[None, 1, None]),
    "backwards": (slice(None, None, -1), lambda: backwards(0)),
    "backwards in the middle": ((slice(1, 3), slice(None, None, -1)), lambda: backwards(1)[1:3]),
    "backwards everywhere": ((slice(None, None, -1),) * 3, lambda: backwards(0, 1, 2)),
    "backwards by two": ((0, 0, slice(None, None, -2)), lambda: GRID[0, 0, [5, 3, 1]]),
    "backwards from and to": ((0, 0, slice(4, 1, -2)), lambda: GRID[0, 0, [4, 2]]),
    "backwards to nothing": ((0, 0, slice(1, 4, -1)), lambda: GRID[0, 0, :0]),
    "backwards behind a new axis": ((None, slice(None, None, -1)), lambda: backwards(0)[None]),
    "list": ([3, 0, 3], lambda: GRID[[3, 0, 3]]),
    "list with negatives": ((slice(None), [-1, 0]), lambda: GRID[:, [-1, 0]]),
    "no rows": ([], lambda: GRID[:0]),
    "integers": (torch.tensor([2, 0]), lambda: GRID[[2, 0]]),
    "bytes, which torch takes for masks": (
        torch.tensor([1, 0, 1, 1], dtype=torch.uint8),
        lambda: GRID[[1, 0, 1, 1]],
    ),
    "bytes on the last axis": (
        (..., torch.tensor([5, 5], dtype=torch.uint8)),
        lambda: GRID[..., [5, 5]],
    ),
    "mask": (torch.tensor([True, False, False, True]), lambda: GRID[[0, 3]]),
    "mask as a list": ([False, True, False, True], lambda: GRID[[1, 3]]),
    "mask of elements": (GRID % 7 == 0, lambda: GRID[GRID % 7 == 0]),
    "list backwards": (([0, 1], slice(None, None, -1)), lambda: backwards(1)[[0, 1]]),
    "two lists": (([0, 1], [2, 0]), lambda: GRID[[0, 1], [2, 0]]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_index_means_what_it_means_in_numpy(grid: TensorSlice, case: str) -> None:
    index, expected = CASES[case]
    part = grid[index]
    assert isinstance(part, torch.Tensor)
    assert part.shape == expected().shape
    assert torch.equal(part, expected())


@pytest.mark.parametrize(
    "index", [4, -5, (0, 3), (0, 0, 0, 0), [4], [True], 1.5, "w", slice("a"), (..., ...), [0.5]]
)
def test_an_index_that_does_not_fit_is_refused_with_file_tensor_and_shape(
    grid: TensorSlice, index: Any
) -> None:
    with pytest.raises(SliceError, match=r"model\.safetensors: tensor 'w' of shape \[4, 3, 6\]: ."):
        grid[index]


@pytest.mark.parametrize("index", [torch.tensor([0.5]), torch.tensor([1j])])
def test_an_index_array_must_hold_integers_or_booleans(grid: TensorSlice, index: Any) -> None:
    with pytest.raises(SliceError, match="integers or booleans"):
        grid[index]


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
def test_any_index_gives_what_python_s_own_lists_give(
    tmp_path_factory: pytest.TempPathFactory, backend: Any, index: tuple[Any, ...]
) -> None:
    # Several arrays, of which an integer beside a list is one, are taken together: not here.
    if any(isinstance(item, list) for item in index):
        index = tuple(slice(item, item + 1) if isinstance(item, int) else item for item in index)
    first_list = next((i for i, item in enumerate(index) if isinstance(item, list)), None)
    index = tuple(
        slice(None) if isinstance(item, list) and i != first_list else item
        for i, item in enumerate(index)
    )
    path = tmp_path_factory.getbasetemp() / "any-index-torch.safetensors"
    save_file({"w": GRID}, path, fsync=False)
    with safe_open(path, "torch", backend=backend) as file:
        part = file.get_slice("w")[index]

    def select(rows: Any, items: tuple[Any, ...]) -> Any:
        if not items:
            return rows
        first, rest = items[0], items[1:]
        if isinstance(first, int):
            return select(rows[first], rest)
        if isinstance(first, list):
            return [select(rows[i], rest) for i in first]
        return [select(row, rest) for row in rows[first]]

    assert part.tolist() == select(GRID.tolist(), index)


@pytest.mark.parametrize("dtype", RARE)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("case", [name for name in CASES if name != "mask of elements"])
def test_types_with_few_kernels_can_be_indexed_like_any_other(
    tmp_path: Path, dtype: torch.dtype, backend: Any, case: str
) -> None:
    index, expected = CASES[case]
    carrier = CARRIERS[dtype.itemsize]
    path = tmp_path / "model.safetensors"
    save_file({"w": GRID.to(carrier).view(dtype)}, path, fsync=False)
    with safe_open(path, "torch", backend=backend) as file:
        part = file.get_slice("w")[index]
    assert part.dtype == dtype
    assert torch.equal(part.view(carrier), expected().to(carrier))


F4 = torch.arange(32, dtype=torch.uint8).reshape(4, 8)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (..., F4),
        (1, F4[1]),
        (slice(1, 3), F4[1:3]),
        (slice(None, None, -1), F4.flip(0)),
        ([2, 0], F4[[2, 0]]),
        ((slice(None), slice(4, 8)), F4[:, 2:4]),
        ((..., slice(-4, None)), F4[:, 6:]),
        ((0, slice(None, 6)), F4[0, :3]),
        ((slice(None), slice(6, 2)), F4[:, :0]),
        ((None, slice(2), slice(2, 1000)), F4[None, :2, 1:]),
    ],
    ids=repr,
)
def test_packed_f4_is_indexed_by_elements_in_pairs(
    tmp_path: Path, backend: Any, index: Any, expected: torch.Tensor
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": F4.view(torch.float4_e2m1fn_x2)}, path)
    with safe_open(path, "torch", backend=backend) as file:
        view = file.get_slice("w")
        part = view[index]
        assert view.get_shape() == [4, 16]
    assert part.dtype == torch.float4_e2m1fn_x2
    assert torch.equal(part.view(torch.uint8), expected)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("index", [0, slice(1, 3), slice(0, 3), slice(None, None, 2), [0, 1]])
def test_an_index_that_would_split_a_pair_of_f4_is_refused(
    tmp_path: Path, backend: Any, index: Any
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": F4.view(torch.float4_e2m1fn_x2)}, path)
    with (
        safe_open(path, "torch", backend=backend) as file,
        pytest.raises(SliceError, match=r"'w'.*torch stores F4 in pairs"),
    ):
        file.get_slice("w")[:, index]
