"""`save_model` and `load_model`: models whose tensors share memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

# Typed otherwise than they are documented, and than they behave.
load_model: Any = safetensors.torch.load_model
save_model: Any = safetensors.torch.save_model


class Tied(nn.Module):
    """Two names of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a


class TiedWeight(nn.Module):
    """Two layers with one weight and two biases."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.c = nn.Linear(2, 2)


class Views(nn.Module):
    """A buffer and parts of it."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0)
        for name, tensor in (("x", whole[:6]), ("whole", whole), ("y", whole[6:])):
            self.register_buffer(name, tensor)


class Overlapping(nn.Module):
    """Parts of a buffer that share bytes, neither of which is the whole."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0)
        self.register_buffer("x", whole[:8])
        self.register_buffer("y", whole[4:])


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def saved(model: nn.Module, path: Path, **options: Any) -> tuple[list[str], dict[str, str] | None]:
    save_model(model, path, **options)
    with safe_open(path, "pt") as file:
        return file.keys(), file.metadata()


def test_one_name_of_a_tied_layer_is_saved_and_the_other_noted(path: Path) -> None:
    assert saved(Tied(), path) == (
        ["a.bias", "a.weight"],
        {"b.bias": "a.bias", "b.weight": "a.weight"},
    )
    assert saved(TiedWeight(), path) == (
        ["embed.weight", "head.bias"],
        {"head.weight": "embed.weight"},
    )
    assert saved(Plain(), path) == (["a.bias", "a.weight", "c.bias", "c.weight"], None)


def test_the_whole_stands_for_its_parts(path: Path) -> None:
    names, metadata = saved(Views(), path)
    assert names == ["whole"]
    assert metadata is not None
    assert {name: metadata[name] for name in ("x", "y")} == {"x": "whole", "y": "whole"}


def test_metadata_is_kept_beside_the_dropped_names(path: Path) -> None:
    assert saved(Tied(), path, metadata={"format": "pt"})[1] == {
        "format": "pt",
        "b.bias": "a.bias",
        "b.weight": "a.weight",
    }
    assert saved(Plain(), path, metadata={"format": "pt"})[1] == {"format": "pt"}
    # What the caller says of a dropped name stays.
    assert saved(Tied(), path, metadata={"b.bias": "mine"})[1] == {
        "b.bias": "mine",
        "b.weight": "a.weight",
    }


def test_a_tied_model_comes_back(path: Path) -> None:
    for make in (Tied, TiedWeight, Plain, Views):
        torch.manual_seed(0)
        before = make()
        save_model(before, path)
        after = make()
        for parameter in after.parameters():
            nn.init.constant_(parameter, -1)
        assert load_model(after, path) == (set(), [])
        for name, tensor in before.state_dict().items():
            assert torch.equal(after.state_dict()[name], tensor)
    tied = Tied()
    save_model(Tied(), path)
    load_model(tied, path)
    assert tied.a.weight is tied.b.weight
    assert tied.a.weight.requires_grad


def test_the_file_of_a_tied_model_is_one_copy(path: Path) -> None:
    save_model(Tied(), path)
    assert sum(tensor.numel() for tensor in load_file(path).values()) == 12


@pytest.mark.parametrize("force", [True, False])
def test_parts_that_overlap_without_a_whole_are_refused(path: Path, force: bool) -> None:
    with pytest.raises(RuntimeError) as caught:
        save_model(Overlapping(), path, force_contiguous=force)
    assert str(caught.value).startswith(
        "Error while trying to find names to remove to save state dict, but found no suitable name "
        "to keep for saving amongst: {'"
    )
    assert "None is covering the entire storage" in str(caught.value)
    assert not path.exists()


def test_a_tensor_that_is_not_contiguous_is_packed_or_refused(path: Path) -> None:
    model = Transposed()
    save_model(model, path)
    assert torch.equal(load_file(path)["w"], model.w)
    assert not model.w.is_contiguous()
    save_model(model, path, None, True)
    path.unlink()
    with pytest.raises(ValueError, match="contiguous") as caught:
        save_model(model, path, force_contiguous=False)
    assert str(caught.value).startswith(
        "You are trying to save a non contiguous tensor: `w` which is not allowed."
    )
    assert "force_contiguous=True" in str(caught.value)
    assert not path.exists()


def mismatch(model: str, *lines: str) -> str:
    return "\n".join([f"Error(s) in loading state_dict for {model}:", *lines])


def test_missing_names_are_listed(path: Path) -> None:
    save_model(Tied(), path)
    with pytest.raises(RuntimeError) as caught:
        load_model(Plain(), path)
    missing = '    Missing key(s) in state_dict: "c.bias", "c.weight"'
    assert str(caught.value) == mismatch("Plain", missing)
    assert load_model(Plain(), path, strict=False) == ({"c.bias", "c.weight"}, [])


def test_unexpected_names_are_listed(path: Path) -> None:
    save_model(Plain(), path)
    with pytest.raises(RuntimeError) as caught:
        load_model(Tied(), path)
    unexpected = '    Unexpected key(s) in state_dict: "c.bias", "c.weight"'
    assert str(caught.value) == mismatch("Tied", unexpected)
    missing, names = load_model(Tied(), path, False)
    assert (missing, sorted(names)) == (set(), ["c.bias", "c.weight"])
    assert isinstance(names, list)


def test_missing_and_unexpected_names_are_listed_together(path: Path) -> None:
    save_file({"z": torch.zeros(1), "a.bias": torch.zeros(3)}, path)
    with pytest.raises(RuntimeError) as caught:
        load_model(Tied(), path)
    assert str(caught.value) == mismatch(
        "Tied",
        '    Missing key(s) in state_dict: "a.weight"',  # one name of each group
        '    Unexpected key(s) in state_dict: "z"',
    )
    missing, unexpected = load_model(Tied(), path, strict=False)
    assert (missing, unexpected) == ({"a.weight"}, ["z"])


@pytest.mark.parametrize("strict", [True, False])
def test_another_shape_is_refused_as_pytorch_does(path: Path, strict: bool) -> None:
    save_model(nn.Linear(2, 3), path)
    with pytest.raises(RuntimeError) as caught:
        load_model(nn.Linear(3, 3), path, strict)
    assert str(caught.value) == mismatch(
        "Linear",
        "\tsize mismatch for weight: copying a param with shape torch.Size([3, 2]) from "
        "checkpoint, the shape in current model is torch.Size([3, 3]).",
    )


def test_tensors_take_the_dtype_of_the_model(path: Path) -> None:
    save_model(nn.Linear(2, 2).half(), path)
    model = nn.Linear(2, 2)
    load_model(model, path)
    assert model.weight.dtype == torch.float32


def test_a_model_is_loaded_from_anything_that_names_a_file(path: Path) -> None:
    model = nn.Linear(2, 2)
    save_model(model, str(path))
    for arguments, named in (
        ((str(path),), {}),
        ((path, True, "cpu"), {}),
        ((path,), {"device": "cpu", "backend": "pread"}),
    ):
        assert load_model(nn.Linear(2, 2), *arguments, **named) == (set(), [])
    with pytest.raises(FileNotFoundError, match=r"^No such file or directory: nope$"):
        load_model(model, "nope")
    with pytest.raises(SafetensorError, match=r"^device foo is invalid$"):
        load_model(model, path, device="foo")
    with pytest.raises(SafetensorError, match=r'^backend "foo" is invalid'):
        load_model(model, path, backend="foo")


def test_wrong_arguments_of_save_model_are_type_errors(path: Path) -> None:
    call: Any = save_model
    with pytest.raises(TypeError, match=r"expected str, bytes or os.PathLike object, not int"):
        call(Plain(), 3)
    with pytest.raises(TypeError, match="'int' object is not an instance of 'str'"):
        call(Plain(), path, {"step": 1})
    with pytest.raises(SafetensorError, match=r"^Error while serializing: I/O error: "):
        save_model(Plain(), path / "no" / "x.safetensors")


def test_buffers_and_tied_buffers_come_back(path: Path) -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(norm, nn.Linear(3, 3))
    model.register_buffer("running", norm.running_mean)
    names, metadata = saved(model, path)
    assert "0.num_batches_tracked" in names
    assert metadata == {"running": "0.running_mean"}
    assert load_model(model, path) == (set(), [])
