"""Slices of a file by tensors, and of F4, of which torch stores two elements in one.

The conformance kit checks every other index, with every dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import SliceError, TensorSlice, safe_open
from safetensors_torch import framework, save_file

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
GRID = torch.arange(72, dtype=torch.int64).reshape(4, 3, 6)


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": GRID}, path)
    with safe_open(path, "torch", backend=request.param) as file:
        yield file.get_slice("w")


# Tensors, and what they stand for.
TENSORS: dict[str, tuple[Any, torch.Tensor]] = {
    "integers": (torch.tensor([2, 0]), GRID[[2, 0]]),
    "one integer": (torch.tensor(2), GRID[2]),
    "no integers": (torch.zeros(0, dtype=torch.int64), GRID[:0]),
    "a matrix": (torch.tensor([[2], [0]]), torch.stack([GRID[2], GRID[0]])[:, None]),
    "bytes, which torch takes for masks": (
        torch.tensor([1, 0, 1, 1], dtype=torch.uint8),
        GRID[[1, 0, 1, 1]],
    ),
    "bytes on the last axis": (
        (..., torch.tensor([5, 5], dtype=torch.uint8)),
        GRID[..., [5, 5]],
    ),
    # NumPy puts the dimension of such arrays in front, torch leaves it where it is.
    "apart from an integer": ((1, slice(None), torch.tensor([5, 0])), GRID[1].T[[5, 0]]),
    "rows by a mask": (torch.tensor([True, False, False, True]), GRID[[0, 3]]),
    "elements by a mask": (GRID % 7 == 0, GRID[GRID % 7 == 0]),
    "a mask behind an axis backwards": (
        (slice(None, None, -1), torch.tensor([False, True, True])),
        GRID.flip(0)[:, [1, 2]],
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_are_an_index(grid: TensorSlice, case: str) -> None:
    index, expected = TENSORS[case]
    part = grid[index]
    assert isinstance(part, torch.Tensor)
    assert part.shape == expected.shape
    assert torch.equal(part, expected)


@pytest.mark.parametrize("index", [torch.tensor([0.5]), torch.tensor([1j])])
def test_an_index_array_must_hold_integers_or_booleans(grid: TensorSlice, index: Any) -> None:
    with pytest.raises(SliceError, match="integers or booleans"):
        grid[index]


@pytest.mark.parametrize("dtype", RARE)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("case", TENSORS)
def test_tensors_index_types_with_few_kernels_like_any_other(
    tmp_path: Path, dtype: torch.dtype, backend: Any, case: str
) -> None:
    index, expected = TENSORS[case]
    carrier = CARRIERS[dtype.itemsize]
    path = tmp_path / "model.safetensors"
    save_file({"w": GRID.to(carrier).view(dtype)}, path, fsync=False)
    with safe_open(path, "torch", backend=backend) as file:
        part = file.get_slice("w")[index]
    assert part.dtype == dtype
    assert torch.equal(part.view(carrier), expected.to(carrier))


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


ALL = slice(None)
# Of a tensor of 8 rows and 8 columns, an accelerator is given all and indexes it, or the part.
WHOLE = {
    "all": (ALL, ALL),
    "backwards": (ALL, slice(None, None, -1)),
    "half of the columns": (ALL, slice(0, 4)),
    "every other column": (ALL, slice(1, 8, 2)),
    "a new axis": (None, ALL, ALL),
    "an axis that is left out": (slice(0, 4),),
}
PART = {
    "less than half": (ALL, slice(0, 3)),
    "some of some": (slice(0, 8, 2), slice(0, 8, 2)),
    "none": (ALL, slice(5, 5)),
    "one column": (ALL, 3),
    "a list": (ALL, [0, 1, 2, 3, 4, 5, 6, 7]),
    "a mask": (torch.ones(8, dtype=torch.bool),),
}


@pytest.mark.parametrize(
    ("device", "is_one"), [("cpu", False), ("meta", False), ("cuda", True), ("mps", True)]
)
def test_slices_may_be_taken_on_any_accelerator(device: str, is_one: bool) -> None:
    assert framework._is_accelerator(torch.device(device)) is is_one


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool])
@pytest.mark.parametrize("case", WHOLE)
def test_slices_taken_on_an_accelerator_are_the_same_and_keep_no_more_than_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, dtype: torch.dtype, backend: Any
) -> None:
    # The host stands in for the accelerator.
    saved = torch.arange(64.0).reshape(8, 8).sub(20).to(dtype)
    save_file({"w": saved}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "torch", backend=backend) as file:
        weight = file.get_slice("w")
        expected = weight[WHOLE[case]]
        monkeypatch.setattr(framework, "_is_accelerator", lambda _: True)
        part = weight[WHOLE[case]]
    assert part.dtype is dtype
    assert part.shape == expected.shape
    assert part.is_contiguous()
    assert part.untyped_storage().nbytes() == part.nbytes
    assert torch.equal(part.view(torch.uint8), expected.contiguous().view(torch.uint8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("case", [*WHOLE, *PART])
def test_slices_on_cuda_are_those_of_the_host(tmp_path: Path, case: str) -> None:
    index = (WHOLE | PART)[case]
    save_file({"w": torch.arange(64.0).reshape(8, 8)}, tmp_path / "model.safetensors")
    with (
        safe_open(tmp_path / "model.safetensors", "torch", "cuda") as there,
        safe_open(tmp_path / "model.safetensors", "torch") as here,
    ):
        part = there.get_slice("w")[index]
        assert part.device.type == "cuda"
        assert torch.equal(part.cpu(), here.get_slice("w")[index])
