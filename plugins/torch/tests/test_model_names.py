"""Which names `load_model` finds missing and unexpected, and what it leaves as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import InvalidInputError, SharedMemoryError, StateDictError
from safetensors_torch import load_file, load_model, save_file, save_model


def tied(names: str = "ab") -> torch.nn.Module:
    model = torch.nn.Module()
    for name in names:
        model.add_module(name, torch.nn.Linear(4, 4, bias=False))
        model.get_submodule(name).weight = model.get_submodule(names[0]).weight
    return model


def weight() -> torch.Tensor:
    return torch.arange(16.0).reshape(4, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is saved."""
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("assign", [False, True])
def test_any_name_of_a_tied_tensor_fills_all(path: Path, name: str, assign: bool) -> None:
    save_file({f"{name}.weight": weight()}, path)
    model = tied("abc")
    assert load_model(model, path, assign=assign) == ([], [])
    assert torch.equal(model.get_parameter("a.weight"), weight())
    assert model.get_parameter("a.weight") is model.get_parameter("c.weight")


@pytest.mark.parametrize("assign", [False, True])
def test_both_names_with_the_same_values_are_one(path: Path, assign: bool) -> None:
    values = weight()
    values[0, 0] = float("nan")
    save_file({"a.weight": values, "b.weight": values.clone()}, path)
    model = tied()
    assert load_model(model, path, assign=assign) == ([], [])
    assert torch.equal(model.get_parameter("b.weight")[1:], values[1:])
    assert model.get_parameter("a.weight") is model.get_parameter("b.weight")


@pytest.mark.parametrize("assign", [False, True])
def test_both_names_with_other_values_are_a_contradiction(path: Path, assign: bool) -> None:
    save_file({"a.weight": weight(), "b.weight": weight() + 1}, path)
    model = tied()
    before = model.get_parameter("a.weight").clone()
    with pytest.raises(StateDictError, match=r"unexpected 'b\.weight'.*other values") as caught:
        load_model(model, path, assign=assign)
    assert caught.value.unexpected == ["b.weight"]
    assert torch.equal(model.get_parameter("a.weight"), before)
    assert load_model(model, path, strict=False, assign=assign) == ([], ["b.weight"])
    assert torch.equal(model.get_parameter("b.weight"), weight())


def test_a_part_must_have_the_values_that_the_whole_has(path: Path) -> None:
    def model() -> torch.nn.Module:
        whole = torch.zeros(4, 4)
        made = torch.nn.Module()
        made.register_buffer("whole", whole)
        made.register_buffer("part", whole[:, 1])
        return made

    save_file({"whole": weight(), "part": weight()[:, 1].clone()}, path)
    loaded = model()
    assert load_model(loaded, path) == ([], [])
    assert torch.equal(loaded.get_buffer("part"), weight()[:, 1])
    save_file({"whole": weight(), "part": weight()[:, 2].clone()}, path)
    with pytest.raises(StateDictError, match="unexpected 'part'"):
        load_model(model(), path)
    save_file({"part": weight()[:, 2].clone()}, path)
    assert load_model(model(), path, strict=False) == (["whole"], [])


def test_of_a_tied_tensor_that_is_not_there_one_name_is_missing(path: Path) -> None:
    save_file({"c.weight": weight()}, path)
    with pytest.raises(StateDictError) as caught:
        load_model(tied(), path)
    assert (caught.value.missing, caught.value.unexpected) == (["a.weight"], ["c.weight"])
    assert load_model(tied(), path, strict=False) == (["a.weight"], ["c.weight"])


def test_a_model_without_the_tie_lacks_the_name_that_was_dropped(path: Path) -> None:
    save_model(tied(), path)
    model = torch.nn.ModuleDict({name: torch.nn.Linear(4, 4, bias=False) for name in "ab"})
    assert load_model(model, path, strict=False) == (["b.weight"], [])
    model.load_state_dict(load_file(path, tied="expand"))


def test_what_modules_do_without_is_not_missing(path: Path) -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    del state["num_batches_tracked"]
    state["running_mean"].fill_(7)
    save_file(state, path)
    model = torch.nn.BatchNorm1d(2)
    assert load_model(model, path) == ([], [])
    assert model.running_mean is not None
    assert model.running_mean.tolist() == [7, 7]
    inner = torch.nn.BatchNorm1d(2)
    other = torch.nn.Sequential(inner)
    with pytest.raises(StateDictError) as caught:
        load_model(other, path)
    assert caught.value.missing == ["0.bias", "0.running_mean", "0.running_var", "0.weight"]
    assert inner.running_mean is not None
    assert inner.running_mean.tolist() == [0, 0]


class Renamed(torch.nn.Module):
    """A module that still takes the name that its weight had before."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        hooked: Any = self
        hooked.register_load_state_dict_pre_hook(self.rename)

    @staticmethod
    def rename(_module: torch.nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if prefix + "old" in state:
            state[prefix + "weight"] = state.pop(prefix + "old")


@pytest.mark.parametrize("assign", [False, True])
def test_what_modules_rename_is_neither_missing_nor_unexpected(path: Path, assign: bool) -> None:
    save_file({"old": torch.ones(2)}, path)
    model = Renamed()
    assert load_model(model, path, assign=assign) == ([], [])
    assert model.weight.tolist() == [1, 1]
    save_file({"old": torch.ones(2), "older": torch.ones(2)}, path)
    with pytest.raises(StateDictError) as caught:
        load_model(Renamed(), path)
    assert (caught.value.missing, caught.value.unexpected) == ([], ["older"])


def test_a_name_that_a_model_saves_but_does_not_load_is_unexpected(path: Path) -> None:
    class Prefixed(torch.nn.Linear):
        """A module that renames its weight when it is saved, and not when it is loaded."""

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            state = super().state_dict(*args, **kwargs)
            state["old"] = state.pop("weight")
            return state

    save_model(Prefixed(2, 2), path)
    with pytest.raises(StateDictError) as caught:
        load_model(Prefixed(2, 2), path)
    assert caught.value.unexpected == ["old"]
    assert load_model(Prefixed(2, 2), path, strict=False) == ([], ["old"])


def test_a_model_may_load_in_its_own_way(path: Path) -> None:
    class Own(torch.nn.Linear):
        """A module whose method is as it was before torch had more."""

        def load_state_dict(self, state: Any, strict: bool = True) -> None:  # type: ignore[override]
            super().load_state_dict(state, strict)

    saved, model = Own(2, 2), Own(2, 2)
    save_model(saved, path)
    assert load_model(model, path) == ([], [])
    assert torch.equal(model.weight, saved.weight)


def test_a_model_that_cannot_be_copied_is_compared_by_its_own_names(path: Path) -> None:
    class Single(Renamed):
        """A module of which there is only one."""

        def __deepcopy__(self, memo: Any) -> Any:
            raise ConnectionError

    save_file({"old": torch.ones(2)}, path)
    with pytest.raises(StateDictError) as caught:
        load_model(Single(), path)
    assert (caught.value.missing, caught.value.unexpected) == (["weight"], ["old"])


def test_a_model_whose_modules_change_no_names_is_not_copied(path: Path) -> None:
    class Single(torch.nn.Linear):
        """A module of which there is only one."""

        def __deepcopy__(self, memo: Any) -> Any:
            pytest.fail("the model was copied")

    save_file({"weight": torch.ones(2, 2), "extra": torch.ones(2)}, path)
    assert load_model(Single(2, 2), path, strict=False) == (["bias"], ["extra"])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_a_model_in_a_wrapper_of_torch_s_own_is_any_model(path: Path) -> None:
    for wrap in (torch.nn.DataParallel, torch.compile):
        model: Any = wrap(torch.nn.Sequential(tied()))
        save_model(model, path)
        assert len(load_file(path)) == 1
        other: Any = wrap(torch.nn.Sequential(tied()))
        assert load_model(other, path) == ([], [])
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)
        assert load_model(other, path, assign=True) == ([], [])


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("force_contiguous", [True, False])
def test_a_tensor_that_no_file_can_hold_is_refused_by_its_name(
    path: Path, force_contiguous: bool
) -> None:
    sparse = torch.nn.Module()
    sparse.register_buffer("eye", torch.eye(3).to_sparse())
    without_data = torch.nn.Linear(2, 2, device="meta")
    without_shape = torch.nn.LazyLinear(2)
    for model, message in (
        (sparse, r"'eye'.*to_dense"),
        (without_data, r"'weight'.*'meta' device"),
        (without_shape, r"'weight'.*uninitialized"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            save_model(model, path, None, force_contiguous)
    assert not path.exists()


def test_what_is_not_contiguous_is_refused_where_it_shall_not_be_packed(path: Path) -> None:
    model = torch.nn.Module()
    model.register_buffer("w", torch.zeros(2, 3).T)
    with pytest.raises(ValueError, match="not contiguous: 'w'") as caught:
        save_model(model, path, None, False)
    assert not isinstance(caught.value, SharedMemoryError)
    save_model(model, path)
    assert load_file(path)["w"].shape == (3, 2)
