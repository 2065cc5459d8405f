"""`get_slice`: every index that programs use, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

A = np.arange(50, dtype=np.float32).reshape(10, 5)
CUBE = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
STRICT = [("np", "mmap"), ("np", "pread"), ("pt", "pread")]  # the others leave it to PyTorch
ALL = [*STRICT, ("pt", "mmap")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "a": A,
        "cube": CUBE,
        "scalar": np.array(3.5),
        "none": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False, True]),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def opened(path: Path, side: tuple[str, str], name: str) -> Any:
    return safe_open(path, side[0], backend=side[1]).get_slice(name)


INDICES: list[Any] = [
    *(0, 9, -1, -10, np.int64(3), np.array(3), np.uint8(4)),
    *(slice(None), slice(2, None), slice(None, 4), slice(2, 4), slice(3, 3), slice(0, 0)),
    *(slice(None, 10), slice(9, 10), slice(None, None, 2), slice(1, 9, 3), slice(None, None, 20)),
    *(slice(1, 1, 1), slice(np.int64(1), np.int64(3))),
    *((), (0,), (0, 0), (-1, -1), (slice(None), 1), (slice(None), -5), (2, slice(1, 3))),
    *((slice(2, 4), slice(None, 2)), (slice(None, None, 3), slice(None, None, 2))),
    *(..., (...,), (..., 1), (1, ...), (1, ..., 1), (..., 1, 1), (slice(1, 3), ..., slice(2, 4))),
    *((slice(None), ...), (..., slice(None), slice(None)), (slice(None), ..., -1)),
]


@pytest.mark.parametrize("side", ALL)
@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_an_index_selects_what_it_selects_in_numpy(
    path: Path, side: tuple[str, str], index: Any
) -> None:
    found = opened(path, side, "a")[index]
    expected = A[index]
    assert tuple(found.shape) == expected.shape
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("side", ALL)
def test_three_dimensions_are_sliced_along_each(path: Path, side: tuple[str, str]) -> None:
    cube = opened(path, side, "cube")
    for index in np.ndindex(2, 3, 4):
        assert cube[index] == CUBE[index]
    for start in range(3):
        for stop in range(start, 4):
            assert cube[:, start:stop].tolist() == CUBE[:, start:stop].tolist()
            assert cube[..., start:stop].tolist() == CUBE[..., start:stop].tolist()
            assert cube[1, start:stop, ::2].tolist() == CUBE[1, start:stop, ::2].tolist()


@pytest.mark.parametrize("side", ALL)
def test_an_empty_list_selects_nothing(path: Path, side: tuple[str, str]) -> None:
    assert opened(path, side, "a")[[]].shape == (0, 5)


@pytest.mark.parametrize("side", ALL)
def test_a_scalar_has_only_the_whole(path: Path, side: tuple[str, str]) -> None:
    scalar = opened(path, side, "scalar")
    assert scalar.get_shape() == []
    for index in ((), ...):
        assert scalar[index].shape == ()
        assert float(scalar[index]) == 3.5


@pytest.mark.parametrize("side", ALL)
def test_shape_and_dtype_are_those_of_the_file(path: Path, side: tuple[str, str]) -> None:
    for name, shape, dtype in (
        ("a", [10, 5], "F32"),
        ("cube", [2, 3, 4], "I16"),
        ("scalar", [], "F64"),
        ("none", [0, 3], "F32"),
        ("flags", [3], "BOOL"),
    ):
        part = opened(path, side, name)
        assert part.get_shape() == shape
        assert isinstance(part.get_shape(), list)
        assert part.get_dtype() == dtype


@pytest.mark.parametrize("side", ALL)
def test_slices_have_the_dtype_of_the_tensor(path: Path, side: tuple[str, str]) -> None:
    expected: list[Any] = (
        [np.dtype(np.float32), np.dtype(np.int16), np.dtype(bool)]
        if side[0] == "np"
        else [torch.float32, torch.int16, torch.bool]
    )
    found = [opened(path, side, name)[1:].dtype for name in ("a", "cube", "flags")]
    assert found == expected


def test_what_is_read_for_a_slice_is_packed(path: Path) -> None:
    for backend in ("mmap", "pread"):
        for index in ((slice(None), slice(1, 3)), (slice(None, None, 2),), (slice(None), 0)):
            assert opened(path, ("np", backend), "a")[index].flags.c_contiguous
    assert opened(path, ("pt", "pread"), "a")[:, 1:3].is_contiguous()
    assert opened(path, ("pt", "pread"), "a")[:, 1].is_contiguous()


BOUNDS = "index {} out of bounds for tensor dimension #{} of size {}"
OUT_OF_BOUNDS = [
    (np.s_[20], "[20]", BOUNDS.format(20, 0, 10)),
    (np.s_[10], "[10]", BOUNDS.format(10, 0, 10)),
    (np.s_[2:, 20], "[2:, 20]", BOUNDS.format(20, 1, 5)),
    (np.s_[:, 20], "[:, 20]", BOUNDS.format(20, 1, 5)),
    (np.s_[..., 5], "[:, 5]", BOUNDS.format(5, 1, 5)),
    (np.s_[:20], "[:20]", BOUNDS.format(19, 0, 10)),
    (np.s_[:11], "[:11]", BOUNDS.format(10, 0, 10)),
    (np.s_[1:20], "[1:20]", BOUNDS.format(19, 0, 10)),
    (np.s_[10:], "[10:]", BOUNDS.format(10, 0, 10)),
    (np.s_[11:], "[11:]", BOUNDS.format(11, 0, 10)),
    (np.s_[10:10], "[10:10]", BOUNDS.format(10, 0, 10)),
    (np.s_[20:, 1], "[20:, 1]", BOUNDS.format(20, 0, 10)),
    (np.s_[2:20:3, 1], "[2:20:3, 1]", BOUNDS.format(19, 0, 10)),
    (np.s_[20, 20], "[20, 20]", BOUNDS.format(20, 1, 5)),
    (np.s_[20:, 20:], "[20:, 20:]", BOUNDS.format(20, 1, 5)),
    (np.s_[2**63 :], "[9223372036854775808:]", BOUNDS.format(2**63, 0, 10)),
    (np.s_[1, 1, 1], "[1, 1, 1]", "more slicing indexes than dimensions in tensor"),
    (np.s_[:, :, :], "[:, :, :]", "more slicing indexes than dimensions in tensor"),
    (np.s_[..., 0, 0, 0], "[0, 0, 0]", "more slicing indexes than dimensions in tensor"),
]


@pytest.mark.parametrize("side", STRICT)
@pytest.mark.parametrize(("index", "shown", "reason"), OUT_OF_BOUNDS, ids=repr)
def test_an_index_out_of_bounds_says_which_and_of_what(
    path: Path, side: tuple[str, str], index: Any, shown: str, reason: str
) -> None:
    with pytest.raises(SafetensorError) as caught:
        opened(path, side, "a")[index]
    assert str(caught.value) == f"Error during slicing {shown} with shape [10, 5]: {reason}"


UNSUPPORTED = "Unsupported slice index at position {}: expected slice, int, or ellipsis"
REFUSED: list[tuple[Any, str]] = [
    (-11, "Invalid index -11 for dimension 0 of size 10"),
    ((slice(None), -6), "Invalid index -6 for dimension 1 of size 5"),
    ((20, -20), "Invalid index -20 for dimension 1 of size 5"),
    ((-20, -20), "Invalid index -20 for dimension 0 of size 10"),
    ((..., ...), "Only one ellipsis (...) is allowed in slice index"),
    ((..., 1, ...), "Only one ellipsis (...) is allowed in slice index"),
    (slice(None, None, 0), "Slice step must be a positive integer, got 0"),
    (slice(None, None, -1), "Slice step must be a positive integer, got -1"),
    (slice(3, 1, -2), "Slice step must be a positive integer, got -2"),
    ([0, 1], "Non empty lists are not implemented"),
    ([True], "Non empty lists are not implemented"),
    (None, UNSUPPORTED.format(0)),
    ((0, None), UNSUPPORTED.format(1)),
    ("a", UNSUPPORTED.format(0)),
    (2.0, UNSUPPORTED.format(0)),
    (np.array([1, 2]), UNSUPPORTED.format(0)),
    (np.float32(1), UNSUPPORTED.format(0)),
    (([0, 1],), UNSUPPORTED.format(0)),
    ((slice(None), [1, 2]), UNSUPPORTED.format(1)),
    (range(2), UNSUPPORTED.format(0)),
    (2**63, UNSUPPORTED.format(0)),
    (2**64, UNSUPPORTED.format(0)),
]


@pytest.mark.parametrize("side", STRICT)
@pytest.mark.parametrize(("index", "message"), REFUSED, ids=repr)
def test_an_index_that_is_not_taken_says_why(
    path: Path, side: tuple[str, str], index: Any, message: str
) -> None:
    with pytest.raises(SafetensorError) as caught:
        opened(path, side, "a")[index]
    assert str(caught.value) == message


@pytest.mark.parametrize("side", STRICT)
@pytest.mark.parametrize("bound", [1.0, "a"])
def test_a_bound_that_is_no_integer_is_a_type_error(
    path: Path, side: tuple[str, str], bound: Any
) -> None:
    expected = f"'{type(bound).__name__}' object cannot be interpreted as an integer"
    for index in (slice(bound, None), slice(None, bound), slice(None, None, bound)):
        with pytest.raises(TypeError, match=expected):
            opened(path, side, "a")[index]


@pytest.mark.parametrize("side", STRICT)
def test_a_scalar_has_no_element_to_index(path: Path, side: tuple[str, str]) -> None:
    for index, shown in ((0, "0"), (slice(None), ":"), (slice(0, 0), "0:0"), ((..., 1), "1")):
        with pytest.raises(SafetensorError) as caught:
            opened(path, side, "scalar")[index]
        assert str(caught.value) == (
            f"Error during slicing [{shown}] with shape []: "
            "more slicing indexes than dimensions in tensor"
        )


PYTORCH: list[Any] = [
    *(None, [0, 1], True, slice(5, 2), slice(-3, None), slice(None, -3)),
    *(slice(None, 20), slice(11, None), slice(20, 30), (None, 0), (0, None), (slice(None), [1, 2])),
    *(np.array([1, 2]), torch.tensor([3, 4]), torch.tensor([True] * 10), (torch.tensor(1), -1)),
    *(slice(1.0, 2), slice(None, None, -1), slice(None, None, 0), 20, -11, (0, 0, 0), 2.0),
]


def outcome(part: Any, index: Any) -> Any:
    try:
        return part[index].tolist()
    except (IndexError, TypeError, ValueError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("index", PYTORCH, ids=repr)
def test_a_mapped_torch_tensor_is_indexed_as_pytorch_does(path: Path, index: Any) -> None:
    part = opened(path, ("pt", "mmap"), "a")
    assert outcome(part, index) == outcome(torch.from_numpy(A), index)


@pytest.mark.parametrize("side", ALL)
def test_the_parts_of_a_split_tensor_make_the_whole(path: Path, side: tuple[str, str]) -> None:
    part = opened(path, side, "a")
    rows = part.get_shape()[0]
    ranks = [part[rank * rows // 4 : (rank + 1) * rows // 4] for rank in range(4)]
    assert [row for rank in ranks for row in rank.tolist()] == A.tolist()
