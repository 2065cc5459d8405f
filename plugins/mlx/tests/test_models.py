"""Whole models: the names and files of MLX's own functions, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from safetensors_core import (
    HeaderError,
    InvalidInputError,
    StateDictError,
    UnsupportedDtypeError,
    read_header,
)
from safetensors_mlx import load_file, load_model, save, save_file, save_model


class Block(nn.Module):  # type: ignore[misc]
    """Lists, dicts and modules inside each other, and what is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(2, 3), {"norm": nn.LayerNorm(3), "0": nn.Linear(3, 1)}]
        self.table = {"0": mx.random.normal((2,)), "1": mx.random.normal((3,))}
        self.scale = mx.random.normal(())
        self.pair = [mx.random.normal((1,)), "text", None]
        self.nothing: list[Any] = []
        self._hidden = mx.ones(4)
        self.name = "block"


class Empty(nn.Module):  # type: ignore[misc]
    """A model without parameters."""


def quantized() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    nn.quantize(model, group_size=32, bits=4)
    return model


MODELS = {
    "linear": lambda: nn.Linear(2, 3),
    "sequential": lambda: nn.Sequential(nn.Linear(2, 2), nn.relu, nn.Linear(2, 2)),
    "nested": Block,
    "quantized": quantized,
    "convolution": lambda: nn.Conv2d(3, 4, 3),
    "batch norm": lambda: nn.BatchNorm(4),
    "attention": lambda: nn.TransformerEncoder(2, 8, 2),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is saved."""
    return tmp_path / "model.safetensors"


def parameters(model: nn.Module) -> dict[str, tuple[str, list[Any]]]:
    """Every parameter by name, as something that can be compared."""
    return {
        name: (str(array.dtype), array.tolist()) for name, array in tree_flatten(model.parameters())
    }


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_model_comes_back_whole(path: Path, make: Any, backend: Any) -> None:
    model, other = make(), make()
    save_model(model, path)
    assert read_header(path).tensors.keys() == parameters(model).keys()
    assert load_model(other, path, backend=backend) == ([], [])
    assert parameters(other) == parameters(model)


def test_a_quantised_model_computes_what_it_did(path: Path) -> None:
    model, other = quantized(), quantized()
    save_model(model, path)
    load_model(other, path)
    x = mx.random.normal((2, 64))
    assert mx.array_equal(model(x), other(x)).item()
    assert read_header(path).tensors["layers.0.weight"].dtype == "U32"


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_files_are_those_of_mlx_s_own_functions(path: Path, make: Any) -> None:
    model = make()
    theirs = path.with_name("theirs.safetensors")
    save_model(model, path)
    model.save_weights(str(theirs))
    # The same tensors, bit for bit; the order is each writer's own.
    assert save(load_file(path)) == save(load_file(theirs)) == path.read_bytes()
    other = make()
    assert load_model(other, theirs) == ([], [])
    assert parameters(other) == parameters(model)
    if make is not Block:  # whose dict with numbers for keys MLX takes for a list
        another = make()
        another.load_weights(str(path))
        assert parameters(another) == parameters(model)


def test_frozen_parameters_are_saved_and_loaded(path: Path) -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    model.freeze()
    other.freeze(keys=["bias"])
    save_model(model, path)
    load_model(other, path)
    assert parameters(other) == parameters(model)
    assert list(dict(tree_flatten(other.trainable_parameters()))) == ["weight"]


def test_one_array_under_two_names_is_saved_under_both(path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.layers[1].weight = model.layers[0].weight
    save_model(model, path)
    loaded = load_file(path)
    assert loaded["layers.1.weight"].tolist() == loaded["layers.0.weight"].tolist()


def test_a_model_without_parameters_is_an_empty_file(path: Path) -> None:
    save_model(Empty(), path)
    assert path.read_bytes() == save({})
    assert load_model(Empty(), path) == ([], [])


def test_the_file_s_dtype_is_taken_as_load_weights_does(path: Path) -> None:
    model, other, another = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(2, 3)
    model.set_dtype(mx.bfloat16)
    save_model(model, path)
    load_model(other, path)
    another.load_weights(str(path))
    assert other.weight.dtype == another.weight.dtype == mx.bfloat16


def test_names_and_shapes_that_differ_are_an_error_and_change_nothing(path: Path) -> None:
    save_file({"weight": mx.zeros((9, 9)), "extra": mx.zeros(1)}, path)
    model = nn.Linear(2, 3)
    before = parameters(model)
    with pytest.raises(StateDictError, match=str(path)) as caught:
        load_model(model, path)
    assert caught.value.missing == ["bias"]
    assert caught.value.unexpected == ["extra"]
    assert caught.value.mismatched == {"weight": ([9, 9], [3, 2])}
    with pytest.raises(StateDictError, match="other shapes"):
        load_model(model, path, strict=False)
    assert parameters(model) == before


def test_without_strict_what_both_have_is_loaded(path: Path) -> None:
    save_file({"weight": mx.ones((3, 2)), "extra": mx.zeros(1)}, path)
    model = nn.Linear(2, 3)
    bias = model.bias.tolist()
    assert load_model(model, path, False) == (["bias"], ["extra"])
    assert model.weight.tolist() == [[1, 1]] * 3
    assert model.bias.tolist() == bias


def foreign(names: dict[str, str]) -> bytes:
    """A file of bytes without a meaning, with a dtype for each name."""
    entries = [
        f'"{name}":{{"dtype":"{dtype}","shape":[2],"data_offsets":[{2 * i},{2 * i + 2}]}}'
        for i, (name, dtype) in enumerate(names.items())
    ]
    header = f"{{{','.join(entries)}}}".encode()
    return len(header).to_bytes(8, "little") + header + bytes(2 * len(names))


class Two(nn.Module):  # type: ignore[misc]
    """Two parameters of two bytes each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mx.ones(2, dtype=mx.uint8), mx.ones(2, dtype=mx.uint8)


def test_a_dtype_that_mlx_lacks_changes_nothing(path: Path) -> None:
    path.write_bytes(foreign({"a": "U8", "b": "F8_E5M2"}))
    model = Two()
    with pytest.raises(UnsupportedDtypeError, match="'b'") as caught:
        load_model(model, path)
    assert caught.value.location == str(path)
    assert parameters(model) == parameters(Two())


def test_only_what_the_model_has_is_read(path: Path) -> None:
    # The other tensor could not be read.
    path.write_bytes(foreign({"a": "U8", "b": "U8", "c": "F8_E5M2"}))
    model = Two()
    assert load_model(model, path, strict=False) == ([], ["c"])
    assert model.b.tolist() == [0, 0]


def test_a_device_that_is_not_there_changes_nothing(path: Path) -> None:
    model = Two()
    save_model(Two(), path)
    with pytest.raises(InvalidInputError, match="no device"):
        load_model(model, path, device="tpu")
    assert parameters(model) == parameters(Two())


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_load_model_refuses_a_header_longer_than_it_is_told(path: Path, backend: Any) -> None:
    model = nn.Linear(2, 2)
    save_model(model, path)
    length = read_header(path).data_start - 8
    assert load_model(model, path, backend=backend, max_header=length) == ([], [])
    with pytest.raises(HeaderError) as caught:
        load_model(model, path, backend=backend, max_header=length - 1)
    assert caught.value.reason == "header-too-large"


def test_options_of_save_model_reach_the_file(path: Path) -> None:
    model = nn.Linear(2, 2)
    save_model(model, path, {"format": "mlx"}, alignment=4096, fsync=False)
    header = read_header(path)
    assert header.metadata == {"format": "mlx"}
    assert header.data_start == 4096


@pytest.mark.parametrize("metadata", ["x", 1, {"a": 1}, {1: "a"}], ids=repr)
def test_save_model_refuses_metadata_that_the_format_has_not(path: Path, metadata: Any) -> None:
    with pytest.raises(InvalidInputError, match="metadata"):
        save_model(nn.Linear(2, 2), path, metadata)
    assert not path.exists()


def test_parameters_that_would_have_one_name_are_refused(path: Path) -> None:
    model = Empty()
    model.table = {"a.b": mx.ones(1), "a": {"b": mx.zeros(1)}}
    with pytest.raises(InvalidInputError, match=r"two parameters .* 'table\.a\.b'"):
        save_model(model, path)
    assert not path.exists()


@pytest.mark.parametrize(
    "model", [{"w": mx.ones(1)}, mx.ones(1), None], ids=["dict", "array", "none"]
)
def test_what_is_no_module_is_refused(path: Path, model: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"expected an mlx\.nn\.Module"):
        save_model(model, path)
    with pytest.raises(InvalidInputError, match=r"expected an mlx\.nn\.Module"):
        load_model(model, path)


def test_progress_is_told_of_saving_and_of_loading(path: Path) -> None:
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))

    save_model(nn.Linear(2, 3), path, progress=progress)
    assert reports[-1] == (path.stat().st_size,) * 2
    load_model(nn.Linear(2, 3), path, progress=progress)
    assert reports[-1] == (36, 36)


def test_a_model_takes_its_parameters_in_another_dtype(path: Path) -> None:
    saved, model = nn.Linear(2, 3), nn.Linear(2, 3)
    save_model(saved, path)
    assert load_model(model, path, dtype="bfloat16") == ([], [])
    assert model.weight.dtype == model.bias.dtype == mx.bfloat16
    assert mx.array_equal(model.weight, saved.weight.astype(mx.bfloat16))
