"""What the page about shared tensors says, with the sizes of files that it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

# Typed otherwise than they are documented, and than they behave.
load_model: Any = safetensors.torch.load_model
save_model: Any = safetensors.torch.save_model


class Model(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(100, 100)
        self.b = self.a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.b(self.a(x))
        return found


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_model_that_shares_tensors_is_saved_and_loaded_in_one_call_each() -> None:
    model, other = Model(), Model()
    save_model(model, "model.safetensors")
    assert load_model(other, "model.safetensors") == (set(), [])
    x = torch.ones(1, 100)
    assert torch.equal(model(x), other(x))


def test_saving_its_state_dict_is_refused() -> None:
    model = Model()
    assert list(model.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    with pytest.raises(RuntimeError, match="share memory"):
        save_file(model.state_dict(), "model.safetensors")


def test_both_formats_hold_one_copy_of_a_shared_layer() -> None:
    model = Model()
    data = (100 * 100 + 100) * 4
    torch.save(model.state_dict(), "model.bin")
    save_model(model, "model.safetensors")
    assert data < Path("model.bin").stat().st_size < data + 4000
    assert data < Path("model.safetensors").stat().st_size < data + 400


def test_a_part_of_a_tensor_is_saved_without_the_rest() -> None:
    a = torch.zeros((100, 100))
    b = a[:1, :]
    torch.save({"b": b}, "model.bin")
    assert Path("model.bin").stat().st_size > 40_000
    save_file({"b": b}, "model.safetensors")
    assert 400 < Path("model.safetensors").stat().st_size < 500
    assert load_file("model.safetensors")["b"].shape == (1, 100)


def test_tensors_are_loaded_lazily_each_with_memory_of_its_own() -> None:
    save_file({"a": torch.zeros(3), "b": torch.ones(3)}, "model.safetensors")
    with safe_open("model.safetensors", framework="pt") as file:
        a = file.get_tensor("a")
        b = file.get_tensor("b")
    a += 5
    assert b.tolist() == [1, 1, 1]


def test_the_first_name_that_covers_the_buffer_is_kept() -> None:
    model = Model()
    save_model(model, "model.safetensors")
    assert sorted(load_file("model.safetensors")) == ["a.bias", "a.weight"]
    # The caveat: who reads the file itself, or loads its dict, misses the dropped names.
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        model.load_state_dict(load_file("model.safetensors"))
    # Every other error is as always.
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_model(nn.ModuleDict({"a": nn.Linear(100, 99)}), "model.safetensors", strict=False)


def test_weights_are_converted_from_pickles() -> None:
    model = Model()
    torch.save(model.state_dict(), "pytorch_model.bin")
    weights = torch.load("pytorch_model.bin", weights_only=True)
    unshared = {name: weights[name].clone() for name in weights}
    save_file(unshared, "model.safetensors", metadata={"format": "pt"})
    found = load_file("model.safetensors")
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_both_formats_load_the_same_weights_on_a_device() -> None:
    weights = {f"h.{i}.weight": torch.randn(10, 10) for i in range(12)}
    save_file(weights, "model.safetensors")
    torch.save(weights, "pytorch_model.bin")
    fast = load_file("model.safetensors", device="cpu")
    slow = torch.load("pytorch_model.bin", map_location="cpu", weights_only=True)
    assert sorted(fast) == sorted(slow)
    assert all(torch.equal(fast[name], slow[name]) for name in slow)
