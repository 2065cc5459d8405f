"""Ordinary tensors are asked all at once; whatever is not ordinary takes the longer way."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import InvalidInputError, SharedMemoryError, UnsupportedDtypeError
from safetensors_torch import framework, load, ordinary, save, save_file
from safetensors_torch.description import DTYPES
from safetensors_torch.framework import TorchFramework
from safetensors_torch.ordinary import prepare_ordinary


def many() -> dict[str, torch.Tensor]:
    """A tensor of each dtype, parameters, a scalar, and parts of one storage that lie apart."""
    bits = torch.arange(48, dtype=torch.uint8)
    tensors = {
        str(dtype): bits.clone().view(dtype) for dtype in DTYPES.values() if dtype is not torch.bool
    }
    whole = torch.arange(12.0).reshape(3, 4)
    return tensors | {
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(3, 2)),
        "scalar": torch.tensor(7.0),
        "empty": torch.ones(0, 3),
        "empty part": torch.ones(4)[4:],
        "first": whole[0],
        "rest": whole[1:],
    }


def test_what_is_ordinary_is_saved_as_it_is_the_longer_way(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = many()
    assert prepare_ordinary(tensors, one_by_one) is not None
    saved = save(tensors)
    monkeypatch.setattr(framework, "prepare_ordinary", lambda *_: None)
    assert save(tensors) == saved


one_by_one = TorchFramework()._lent_buffers


def cut() -> torch.Tensor:
    """A tensor whose storage is too short for it."""
    tensor = torch.ones(8)[4:]
    tensor.untyped_storage().resize_(20)
    return tensor


def freed() -> torch.Tensor:
    """A tensor whose storage has nothing left."""
    tensor = torch.ones(8)
    tensor.untyped_storage().resize_(0)
    return tensor


ODD: dict[str, Any] = {
    "a matrix that is transposed": lambda: torch.ones(2, 3).T,
    "every other element": lambda: torch.ones(4)[::2],
    "complex numbers to be conjugated": lambda: torch.ones(2, dtype=torch.complex64).conj(),
    "a number to be negated": lambda: torch.tensor([1 + 2j]).conj().imag,
    "numbers to be negated": lambda: torch._neg_view(torch.ones(3)),
    "zeros that are yet to be made": lambda: torch._efficientzerotensor((2, 2)),
    "a tensor without data": lambda: torch.ones(3, device="meta"),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a sparse tensor by rows": lambda: torch.eye(3).to_sparse_csr(),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "a parameter without a shape": lambda: torch.nn.LazyLinear(3).weight,
    "a subclass": lambda: torch.ones(3).as_subclass(type("Mine", (torch.Tensor,), {})),
    "a storage that is too short": cut,
    "a storage that was freed": freed,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ODD)
def test_one_that_is_not_ordinary_sends_all_the_longer_way(kind: str) -> None:
    odd = ODD[kind]()
    assert prepare_ordinary({"w": torch.ones(2), "odd": odd}, one_by_one) is None
    assert prepare_ordinary({"odd": odd}, one_by_one) is None


def test_tensors_inside_of_a_transformation_go_the_longer_way() -> None:
    found: list[object] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        found.append(prepare_ordinary({"x": x}, one_by_one))
        return x

    torch.vmap(look)(torch.ones(3, 2))
    assert found == [None]


def test_tensors_that_overlap_are_refused_by_name() -> None:
    whole = torch.ones(4)
    tensors = {"whole": whole, "other": torch.ones(2), "part": whole[1:3]}
    assert prepare_ordinary(tensors, one_by_one) is None
    with pytest.raises(SharedMemoryError) as caught:
        save(tensors)
    assert caught.value.groups == [["whole", "part"]]


def test_a_dtype_that_the_format_lacks_is_refused_by_name() -> None:
    tensors = {"fine": torch.ones(2), "odd": torch.ones(2, dtype=torch.complex128)}
    with pytest.raises(UnsupportedDtypeError, match="'odd'"):
        save(tensors)


@pytest.mark.parametrize("size", [3000, 300_000])
@pytest.mark.parametrize("when", [0, 1])
def test_memory_that_is_replaced_during_a_save_is_found_where_it_is_then(
    tmp_path: Path, size: int, when: int
) -> None:
    tensors = {f"t{i:04}": torch.full((size,), float(i)) for i in range(9_000_000 // size)}
    expected = save(tensors)
    last = list(tensors.values())[-100_000_000 // size // 100 :]
    reports: list[int] = []

    def replace(done: int, _total: int) -> None:
        reports.append(done)
        if len(reports) == when + 1:
            for tensor in last:
                tensor.untyped_storage().share_memory_()

    save_file(tensors, tmp_path / "a.safetensors", progress=replace, fsync=False)
    assert (tmp_path / "a.safetensors").read_bytes() == expected
    assert last[0].untyped_storage().is_shared()


def test_a_tensor_that_grows_during_a_save_is_refused(tmp_path: Path) -> None:
    tensors = {f"t{i:04}": torch.ones(3000) for i in range(3000)}

    def grow(_done: int, _total: int) -> None:
        tensors["t2999"].resize_(4000)

    with pytest.raises(InvalidInputError, match="t2999"):
        save_file(tensors, tmp_path / "a.safetensors", progress=grow, fsync=False)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_was_lent_stays_until_it_is_returned() -> None:
    tensor = torch.ones(1000)
    gone = weakref.ref(tensor)
    prepared = TorchFramework().prepare({"w": tensor})
    [buffer] = prepared.buffers(["w"])
    tensor.data = torch.zeros(5)
    del tensor, prepared
    gc.collect()
    assert gone() is None
    assert bytes(buffer) == b"\0\0\x80\x3f" * 1000


def test_only_the_memory_of_the_host_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"w": torch.ones(2)}
    assert prepare_ordinary(tensors, one_by_one) is not None
    monkeypatch.setattr(ordinary, "_is_cpu", lambda _: False)
    assert prepare_ordinary(tensors, one_by_one) is None


def test_bytes_come_in_the_order_in_which_they_are_asked_for() -> None:
    prepared = prepare_ordinary(
        {name: torch.tensor([n]) for n, name in enumerate("abc")}, one_by_one
    )
    assert prepared is not None
    assert [bytes(buffer)[0] for buffer in prepared.buffers(["c", "a"])] == [2, 0]
    assert [spec.shape for spec in prepared.specs] == [(1,)] * 3


def test_what_is_ordinary_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchFramework, "describe", None)  # nobody asks one by one
    monkeypatch.setattr(framework, "check_sharing", None)
    loaded = load(save(many()))
    assert torch.equal(loaded["rest"], torch.arange(4.0, 12.0).reshape(2, 4))
