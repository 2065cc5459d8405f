"""Whole models: what `save_model` and `load_model` refuse, and what they pass on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import HeaderError, InvalidInputError, StateDictError, read_header
from safetensors_torch import load_model, save_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is saved."""
    return tmp_path / "model.safetensors"


def tied() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def test_a_model_that_does_not_match_survives_pickle(path: Path) -> None:
    save_model(torch.nn.Linear(2, 2), path)
    with pytest.raises(StateDictError) as caught:
        load_model(torch.nn.Sequential(torch.nn.Linear(2, 3)), path)
    error = caught.value
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is StateDictError
    assert (str(found), vars(found)) == (str(error), vars(error))
    assert found.missing == ["0.bias", "0.weight"]
    assert found.unexpected == ["bias", "weight"]


def test_shapes_that_differ_survive_pickle(path: Path) -> None:
    save_model(torch.nn.Linear(2, 2, bias=False), path)
    with pytest.raises(StateDictError, match="other shapes") as caught:
        load_model(torch.nn.Linear(2, 3, bias=False), path)
    found = pickle.loads(pickle.dumps(caught.value))
    assert found.mismatched == {"weight": ([2, 2], [3, 2])}


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_load_model_refuses_a_header_longer_than_it_is_told(path: Path, backend: Any) -> None:
    model = torch.nn.Linear(2, 2)
    save_model(model, path)
    length = read_header(path).data_start - 8
    assert load_model(model, path, backend=backend, max_header=length) == ([], [])
    with pytest.raises(HeaderError) as caught:
        load_model(model, path, backend=backend, max_header=length - 1)
    assert caught.value.reason == "header-too-large"


@pytest.mark.parametrize("model", [{"w": torch.zeros(1)}, None, torch.zeros(1)], ids=repr)
def test_what_is_no_module_is_refused(path: Path, model: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a torch\.nn\.Module"):
        save_model(model, path)
    assert not path.exists()
    save_model(torch.nn.Linear(2, 2), path)
    with pytest.raises(InvalidInputError, match=r"expected a torch\.nn\.Module"):
        load_model(model, path)


@pytest.mark.parametrize("metadata", ["x", "", [("a", "b")], 1, {"a": 1}, {1: "a"}], ids=repr)
def test_save_model_refuses_metadata_that_the_format_has_not(path: Path, metadata: Any) -> None:
    with pytest.raises(InvalidInputError, match="metadata must"):
        save_model(tied(), path, metadata)
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "metadata", "stored"),
    [
        (lambda: torch.nn.Linear(2, 2), None, None),
        (lambda: torch.nn.Linear(2, 2), {}, {}),
        (lambda: torch.nn.Linear(2, 2), {"a": "b"}, {"a": "b"}),
        (tied, None, {"1.weight": "0.weight"}),
        (tied, {}, {"1.weight": "0.weight"}),
        (tied, {"1.weight": "mine"}, {"1.weight": "mine"}),
    ],
)
def test_metadata_holds_what_was_given_and_what_was_dropped(
    path: Path, make: Any, metadata: Any, stored: Any
) -> None:
    given = None if metadata is None else dict(metadata)
    save_model(make(), path, metadata)
    assert read_header(path).metadata == stored
    assert metadata == given


class Scaling(torch.nn.Linear):
    """A module that keeps a number in its state dict, besides tensors."""

    factor: float | None = None

    def get_extra_state(self) -> Any:
        return self.factor

    def set_extra_state(self, state: Any) -> None:
        self.factor = state


def test_what_is_no_tensor_is_not_lost_by_a_save(path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"holds '0\._extra_state', which is no tensor"):
        save_model(torch.nn.Sequential(Scaling(2, 2)), path)
    assert not path.exists()


def test_what_is_no_tensor_is_missing_after_a_load(path: Path) -> None:
    save_model(torch.nn.Linear(2, 2), path)
    with pytest.raises(StateDictError, match="missing '_extra_state'"):
        load_model(Scaling(2, 2), path)
    assert load_model(Scaling(2, 2), path, strict=False) == (["_extra_state"], [])


def test_a_tensor_as_extra_state_is_saved_and_loaded(path: Path) -> None:
    model = Scaling(2, 2)
    model.factor = torch.tensor(2.5)  # type: ignore[assignment]
    save_model(model, path)
    copy = Scaling(2, 2)
    copy.factor = torch.tensor(0.0)  # type: ignore[assignment]
    assert load_model(copy, path) == ([], [])
    assert copy.factor == 2.5


def test_values_are_not_copied_to_where_there_is_no_memory(path: Path) -> None:
    save_model(torch.nn.Linear(2, 2), path)
    with pytest.raises(InvalidInputError, match=r"'bias', 'weight' cannot hold .* assign=True"):
        load_model(torch.nn.Linear(2, 2, device="meta"), path)


def test_progress_is_told_of_saving_and_of_loading(path: Path) -> None:
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))

    save_model(tied(), path, progress=progress)
    assert reports[-1] == (path.stat().st_size,) * 2
    load_model(tied(), path, progress=progress)
    assert reports[-1] == (32, 32)


@pytest.mark.parametrize("dtype", ["bfloat16", "BF16", torch.bfloat16])
def test_a_model_takes_its_tensors_in_another_dtype(path: Path, dtype: Any) -> None:
    saved = tied()
    saved.register_buffer("steps", torch.tensor([3]))
    save_model(saved, path)
    with torch.device("meta"):
        model = tied()
        model.register_buffer("steps", torch.tensor([0]))
    assert load_model(model, path, assign=True, dtype=dtype) == ([], [])
    assert model.get_parameter("0.weight") is model.get_parameter("1.weight")
    for name, tensor in model.state_dict().items():
        wanted = torch.int64 if name == "steps" else torch.bfloat16
        assert torch.equal(tensor, saved.state_dict()[name].to(wanted))
        assert tensor.dtype is wanted


def test_a_dtype_is_refused_where_the_model_decides(path: Path) -> None:
    model = tied()
    save_model(model, path)
    with pytest.raises(InvalidInputError, match=r"dtype='torch\.float16' needs assign=True"):
        load_model(model, path, dtype=torch.float16)
