"""`load_model(..., assign=True)`: the file's tensors become the model's, and ties stay ties."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import InvalidInputError, StateDictError
from safetensors_torch import load_model, save_file, save_model


class Tied(torch.nn.Module):
    """Weights under two names, views of a buffer, and a buffer that is not saved."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(8, 4, device=device)
        self.head = torch.nn.Linear(4, 8, bias=False, device=device)
        self.head.weight = self.embed.weight
        self.norm = torch.nn.BatchNorm1d(4, device=device)
        table = torch.zeros(6, 4, device=device)
        self.register_buffer("table", table)
        self.register_buffer("rows", table[2:4])
        self.register_buffer("column", table[:, 1])
        self.register_buffer("mask", torch.ones(3, device=device), persistent=False)


def filled() -> Tied:
    model = Tied()
    for number, tensor in enumerate(model.state_dict().values()):
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + 100 * number)
    return model


def values(model: torch.nn.Module) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of a tied model."""
    save_model(filled(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def _swapping() -> Iterator[None]:
    """The other way in which torch puts a tensor into a module."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_model_takes_the_file_s_tensors_and_keeps_its_ties(
    path: Path, device: str, backend: Any
) -> None:
    model = Tied(device)
    assert load_model(model, path, backend=backend, assign=True) == ([], [])
    assert values(model) == values(filled())
    assert model.head.weight is model.embed.weight
    assert isinstance(model.embed.weight, torch.nn.Parameter)
    table = model.get_buffer("table")
    for name in ("rows", "column"):
        assert (
            model.get_buffer(name).untyped_storage().data_ptr()
            == table.untyped_storage().data_ptr()
        )
    table.zero_()
    assert not model.get_buffer("rows").any()
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in Tied().named_parameters()
    ]


@pytest.mark.usefixtures("_swapping")
def test_tied_parameters_are_swapped_once(tmp_path: Path) -> None:
    def tied() -> torch.nn.Sequential:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        model[1].weight = model[0].weight
        return model

    path = tmp_path / "model.safetensors"
    saved, model = tied(), tied()
    save_model(saved, path)
    parameter = model[0].weight
    assert load_model(model, path, assign=True) == ([], [])
    assert model[0].weight is model[1].weight is parameter
    assert values(model) == values(saved)


def test_a_buffer_that_is_not_saved_stays_where_it_is(path: Path) -> None:
    model = Tied("meta")
    load_model(model, path, assign=True)
    assert model.get_buffer("mask").is_meta
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_assigned_tensors_are_those_that_were_loaded_and_no_copies(
    path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    from safetensors_torch.framework import TorchFramework

    addresses: dict[str, int] = {}
    load = TorchFramework.load

    def note(self: TorchFramework, source: Any, infos: Any, device: Any) -> Any:
        loaded = load(self, source, infos, device)
        addresses.update({name: tensor.data_ptr() for name, tensor in loaded.items()})
        return loaded

    monkeypatch.setattr(TorchFramework, "load", note)
    model = Tied("meta")
    load_model(model, path, backend=backend, assign=True)
    state = model.state_dict()
    assert {name: state[name].data_ptr() for name in addresses} == addresses
    assert state.keys() - addresses.keys() == {"head.weight", "rows", "column"}


def test_the_tensors_that_the_model_had_are_let_go_of(path: Path) -> None:
    model = Tied()
    old = [weakref.ref(tensor) for tensor in (model.embed.weight, model.get_buffer("table"))]
    load_model(model, path, assign=True)
    gc.collect()
    assert [reference() for reference in old] == [None, None]


@pytest.mark.parametrize("trained", [True, False])
def test_parameters_require_gradients_as_they_did(path: Path, trained: bool) -> None:
    model = Tied("meta")
    model.embed.weight.requires_grad_(trained)
    load_model(model, path, assign=True)
    assert model.embed.weight.requires_grad is trained
    assert model.norm.weight.requires_grad


def test_the_dtype_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_model(torch.nn.Linear(2, 2).half(), path)
    copied, assigned = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    load_model(copied, path)
    load_model(assigned, path, assign=True)
    assert (copied.weight.dtype, assigned.weight.dtype) == (torch.float32, torch.float16)


def test_views_have_the_dtype_of_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_model(filled().half(), path)
    model = Tied("meta")
    load_model(model, path, assign=True)
    assert model.get_buffer("column").dtype is torch.float16
    assert torch.equal(model.get_buffer("column"), model.get_buffer("table")[:, 1])


def test_integers_for_a_parameter_that_requires_gradients_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    save_file({"weight": torch.ones(2, 2, dtype=torch.int8)}, path)
    model = torch.nn.Linear(2, 2, bias=False)
    before = model.weight
    with pytest.raises(InvalidInputError, match=r"'weight'.*int8.*requires_grad_\(False\)"):
        load_model(model, path, assign=True)
    assert model.weight is before
    model.weight.requires_grad_(False)
    load_model(model, path, assign=True)
    assert model.weight.tolist() == [[1, 1], [1, 1]]


def test_a_view_of_another_dtype_cannot_follow_a_change_of_dtype(tmp_path: Path) -> None:
    class Bits(torch.nn.Module):
        """Floats, and the same bytes as integers."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bits", torch.zeros(4, dtype=torch.int32))
            self.register_buffer("floats", self.get_buffer("bits").view(torch.float32))

    path = tmp_path / "bits.safetensors"
    save_file({"bits": torch.arange(4)}, path)
    with pytest.raises(InvalidInputError, match=r"'floats' is a view of 'bits'.*torch\.int64"):
        load_model(Bits(), path, assign=True)
    save_file({"bits": torch.arange(4, dtype=torch.int32)}, path)
    model = Bits()
    load_model(model, path, assign=True)
    assert model.get_buffer("floats").view(torch.int32).tolist() == [0, 1, 2, 3]


def test_two_parameters_over_one_memory_stay_two(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.zeros(3))
    model.b = torch.nn.Parameter(model.a.detach(), requires_grad=False)
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    load_model(model, path, assign=True)
    assert model.a is not model.b
    assert model.a.data_ptr() == model.b.data_ptr()
    assert (model.a.requires_grad, model.b.requires_grad) == (True, False)


def test_what_does_not_match_leaves_the_model_as_it_was(path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    before = dict(model.named_parameters())
    with pytest.raises(StateDictError):
        load_model(model, path, assign=True)
    assert all(tensor is before[name] for name, tensor in model.named_parameters())


def test_what_is_missing_stays_where_not_all_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"weight": torch.ones(2, 2), "more": torch.ones(1)}, path)
    model = torch.nn.Linear(2, 2, device="meta")
    assert load_model(model, path, strict=False, assign=True) == (["bias"], ["more"])
    assert (model.weight.is_meta, model.bias.is_meta) == (False, True)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_model_without_shapes_takes_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(torch.nn.Linear(3, 2), path)
    for assign in (False, True):
        model = torch.nn.LazyLinear(2)
        assert load_model(model, path, assign=assign) == ([], [])
        assert model.weight.shape == (2, 3)


def test_a_state_of_one_tensor_under_two_names_is_one_object_again(tmp_path: Path) -> None:
    class Shared(torch.nn.Module):
        """Two modules with one empty and one full buffer."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Module(), torch.nn.Module()
            for name, tensor in {"full": torch.zeros(2), "empty": torch.zeros(0)}.items():
                self.a.register_buffer(name, tensor)
                self.b.register_buffer(name, tensor)

    path = tmp_path / "model.safetensors"
    save_model(Shared(), path)
    model = Shared()
    assert load_model(model, path, assign=True) == ([], [])
    assert model.a.get_buffer("full") is model.b.get_buffer("full")
    assert model.a.get_buffer("empty") is model.b.get_buffer("empty")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_model_without_data_comes_to_a_gpu(path: Path) -> None:
    model = Tied("meta")
    load_model(model, path, device="cuda", assign=True)
    assert model.embed.weight.is_cuda
    assert model.head.weight is model.embed.weight
    assert values(model) == values(filled())
