"""Whole models: what `save_model` of either implementation writes, the other one loads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import safetensors_torch
from safetensors_core import InvalidInputError, SharedMemoryError, StateDictError

Tensors = dict[str, torch.Tensor]


class Model(torch.nn.Module):
    """Parameters by name, and buffers for what is no float."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        parameters: dict[int, torch.nn.Parameter] = {}
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                made = parameters.setdefault(id(tensor), torch.nn.Parameter(tensor))
                self.register_parameter(name, made)
            else:
                self.register_buffer(name, tensor)


def flat() -> torch.Tensor:
    return torch.arange(16.0)


BOTH_SAVE: dict[str, Callable[[torch.Tensor], Tensors]] = {
    "apart": lambda t: {"a": t, "b": t.clone()},
    "tied": lambda t: {"a": t, "b": t},
    "tied three times": lambda t: {"c": t, "a": t, "b": t},
    "two parameters over one memory": lambda t: {"a": t, "b": t.detach()},
    "integers": lambda t: dict.fromkeys("ab", t.to(torch.int64)),
    "two ties": lambda t: {**dict.fromkeys("ac", t), **dict.fromkeys("bd", t.clone())},
    "empty": lambda t: {"a": t[:0].clone(), "b": t},
}
BOTH_SAVE_VIEWS: dict[str, Callable[[torch.Tensor], Tensors]] = {
    "another shape": lambda t: {"a": t, "b": t.view(4, 4)},
    "part and whole": lambda t: {"a": t[4:8], "b": t},
    "halves and whole": lambda t: {"a": t[:8], "b": t[8:], "c": t},
    "another dtype": lambda t: {"a": t, "b": t.view(torch.int32)},
}
WE_SAVE: dict[str, Callable[[torch.Tensor], Tensors]] = {
    "larger storage": lambda t: {"a": t[2:10]},
    "halves of a storage": lambda t: {"a": t[:8], "b": t[8:]},
    "interleaved": lambda t: {"a": t[::2], "b": t[1::2]},
    "columns": lambda t: {"a": t.view(4, 4)[:, :2], "b": t.view(4, 4)[:, 2:]},
    "tied part of a storage": lambda t: dict.fromkeys("ab", t[2:10]),
    "transposed": lambda t: {"a": t.view(4, 4).T, "b": t.view(4, 4)},
}


def zeros(make: Callable[[torch.Tensor], Tensors]) -> Model:
    return Model(make(torch.zeros(16)))


def reference_saves(model: Model, path: Path, *arguments: Any) -> None:
    safetensors.torch.save_model(model, str(path), *arguments)


def reference_loads(
    model: torch.nn.Module, path: Path, **options: Any
) -> tuple[set[str], list[str]]:
    missing, unexpected = safetensors.torch.load_model(model, str(path), **options)
    return set(missing), list(unexpected)


def assert_same(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    state = model.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("metadata", [None, {"b": "mine"}, {"by": "me"}], ids=str)
@pytest.mark.parametrize("case", BOTH_SAVE)
def test_files_of_tied_models_are_byte_identical(
    tmp_path: Path, case: str, metadata: dict[str, str] | None
) -> None:
    model = Model(BOTH_SAVE[case](flat()))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    safetensors_torch.save_model(model, ours, metadata)
    reference_saves(model, theirs, metadata)
    one, other = ours.read_bytes(), theirs.read_bytes()
    if one != other:
        # The reference writes several metadata keys in an order that changes from run to run.
        headers = [header_of(path) for path in (ours, theirs)]
        assert headers[0] == headers[1]
        assert len(headers[0]["__metadata__"]) > 1
        assert len(one) == len(other)


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


@pytest.mark.parametrize("case", [*BOTH_SAVE, *BOTH_SAVE_VIEWS])
def test_the_same_name_of_each_group_is_kept(tmp_path: Path, case: str) -> None:
    model = Model({**BOTH_SAVE, **BOTH_SAVE_VIEWS}[case](flat()))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    safetensors_torch.save_model(model, ours)
    reference_saves(model, theirs)
    one, other = (header_of(path) for path in (ours, theirs))
    notes = {k: v for k, v in one.pop("__metadata__", {}).items() if "." not in k}
    assert (one, notes) == ({k: other[k] for k in one}, other.pop("__metadata__", {}))
    assert one == other


@pytest.mark.parametrize("case", [*BOTH_SAVE, *BOTH_SAVE_VIEWS])
def test_our_files_load_there(tmp_path: Path, case: str) -> None:
    make = {**BOTH_SAVE, **BOTH_SAVE_VIEWS}[case]
    path = tmp_path / "model.safetensors"
    saved, model = Model(make(flat())), zeros(make)
    safetensors_torch.save_model(saved, path)
    assert reference_loads(model, path) == (set(), [])
    assert_same(model, saved)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("case", [*BOTH_SAVE, *BOTH_SAVE_VIEWS])
def test_their_files_load_here(tmp_path: Path, case: str, assign: bool) -> None:
    make = {**BOTH_SAVE, **BOTH_SAVE_VIEWS}[case]
    path = tmp_path / "model.safetensors"
    saved, model = Model(make(flat())), zeros(make)
    reference_saves(saved, path)
    assert safetensors_torch.load_model(model, path, assign=assign) == ([], [])
    assert_same(model, saved)


@pytest.mark.parametrize("case", BOTH_SAVE)
def test_the_names_that_they_dropped_come_back(tmp_path: Path, case: str) -> None:
    model = Model(BOTH_SAVE[case](flat()))
    path = tmp_path / "model.safetensors"
    reference_saves(model, path)
    loaded = safetensors_torch.load_file(path, tied="expand")
    assert loaded.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("case", WE_SAVE)
def test_models_that_the_reference_refuses_come_back(
    tmp_path: Path, case: str, assign: bool
) -> None:
    make = WE_SAVE[case]
    path = tmp_path / "model.safetensors"
    saved, model = Model(make(flat())), zeros(make)
    with pytest.raises(RuntimeError):
        reference_saves(saved, path)
    safetensors_torch.save_model(saved, path)
    assert safetensors_torch.load_model(model, path, assign=assign) == ([], [])
    assert_same(model, saved)
    assert safetensors.torch.load_file(path).keys() <= saved.state_dict().keys()


@pytest.mark.parametrize(
    ("make", "force_contiguous", "error"),
    [
        (lambda t: {"a": t[:10], "b": t[6:]}, True, SharedMemoryError),
        (lambda t: {"a": t.view(4, 4).T}, False, InvalidInputError),
    ],
    ids=["overlap", "not contiguous"],
)
def test_what_both_refuse_is_the_same_error_for_programs(
    tmp_path: Path, make: Any, force_contiguous: bool, error: type[Exception]
) -> None:
    model = Model(make(flat()))
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        reference_saves(model, tmp_path / "theirs", None, force_contiguous)
    with pytest.raises(type(theirs.value)) as ours:
        safetensors_torch.save_model(model, tmp_path / "ours", None, force_contiguous)
    assert type(ours.value) is error


STATES: dict[str, Tensors] = {
    "the first name": {"a": flat()},
    "the second name": {"b": flat()},
    "both names, one value": {"a": flat(), "b": flat()},
    "both names, two values": {"a": flat(), "b": flat() + 1},
    "neither name": {"c": flat()},
    "nothing": {},
    "one more": {"a": flat(), "c": flat()},
    "another shape": {"a": flat().view(4, 4)},
}
# A file with both names of one tensor loads here if they agree; there it never does.
MORE_LOADS = {"both names, one value"}


@pytest.mark.parametrize("case", STATES)
@pytest.mark.parametrize("strict", [True, False])
def test_missing_and_unexpected_names_are_those_of_the_reference(
    tmp_path: Path, case: str, strict: bool
) -> None:
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file(STATES[case], path)
    ours, theirs = zeros(BOTH_SAVE["tied"]), zeros(BOTH_SAVE["tied"])
    if case in MORE_LOADS:
        assert safetensors_torch.load_model(ours, path, strict) == ([], [])
        assert_same(ours, Model(BOTH_SAVE["tied"](flat())))
        return
    try:
        expected = reference_loads(theirs, path, strict=strict)
    except RuntimeError:
        with pytest.raises(StateDictError):
            safetensors_torch.load_model(ours, path, strict)
        return
    missing, unexpected = safetensors_torch.load_model(ours, path, strict)
    assert (set(missing), unexpected) == expected
    if case == "both names, two values":  # one is loaded, there the last one
        theirs = Model(BOTH_SAVE["tied"](flat()))
    if not missing:
        assert_same(ours, theirs)


def test_what_modules_do_without_is_missing_in_neither(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = torch.nn.BatchNorm1d(2).state_dict()
    del state["num_batches_tracked"]
    safetensors_torch.save_file(state, path)
    assert reference_loads(torch.nn.BatchNorm1d(2), path) == (set(), [])
    assert safetensors_torch.load_model(torch.nn.BatchNorm1d(2), path) == ([], [])


class Named(torch.Tensor):
    """A subclass that only adds a name."""


STORAGES: dict[str, Callable[[], torch.Tensor]] = {
    "plain": flat,
    "view": lambda: flat()[4:8],
    "transposed": lambda: flat().view(4, 4).T,
    "empty": lambda: torch.empty(0),
    "empty view": lambda: flat()[3:3],
    "meta": lambda: torch.empty(3, device="meta"),
    "parameter": lambda: torch.nn.Parameter(flat()),
    "subclass": lambda: flat().as_subclass(Named),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
@pytest.mark.parametrize("function", ["storage_ptr", "storage_size"])
@pytest.mark.parametrize("case", STORAGES)
def test_storages_have_the_address_and_the_size_that_they_have_there(
    case: str, function: str
) -> None:
    tensor = STORAGES[case]()
    try:
        with warnings.catch_warnings():
            # It still asks torch for what torch calls deprecated.
            warnings.simplefilter("ignore")
            expected = getattr(safetensors.torch, function)(tensor)
    except NotImplementedError:
        with pytest.raises(NotImplementedError):
            getattr(safetensors_torch, function)(tensor)
        return
    assert getattr(safetensors_torch, function)(tensor) == expected
