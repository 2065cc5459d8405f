"""Whole layers: tied parameters, and the same answers after loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from safetensors_core import InvalidInputError, StateDictError, UnsupportedDtypeError, read_header
from safetensors_paddle import load_file, load_model, save, save_file, save_model


class Tied(paddle.nn.Layer):  # type: ignore[misc]
    """A language model in small: what embeds the words also decodes them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = paddle.nn.Embedding(7, 4)
        self.body = paddle.nn.Sequential(paddle.nn.Linear(4, 4), paddle.nn.ReLU())
        self.decoder = paddle.nn.Linear(4, 7, bias_attr=False)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("steps", paddle.zeros([1], dtype="int64"))
        self.register_buffer("scratch", paddle.zeros([3]), persistable=False)

    def forward(self, words: Any) -> Any:
        return self.body(self.embedding(words)) @ self.decoder.weight.T


class Convolutions(paddle.nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.convolution = paddle.nn.Conv2D(3, 4, 3)
        self.norm = paddle.nn.BatchNorm2D(4)
        self.scale = self.create_parameter([])

    def forward(self, images: Any) -> Any:
        return self.norm(self.convolution(images)) * self.scale


def halves() -> Any:
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 3), paddle.nn.LayerNorm(3))
    layer.to(dtype="bfloat16")
    return layer


LAYERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "linear": (lambda: paddle.nn.Linear(4, 3), lambda: paddle.ones([2, 4])),
    "convolutions": (Convolutions, lambda: paddle.ones([1, 3, 8, 8])),
    "tied": (Tied, lambda: paddle.to_tensor([1, 5, 6])),
    "recurrent": (lambda: paddle.nn.LSTM(4, 3, num_layers=2), lambda: paddle.ones([2, 5, 4])),
    "attention": (
        lambda: paddle.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0),
        lambda: paddle.ones([2, 5, 4]),
    ),
    "nothing": (paddle.nn.ReLU, lambda: paddle.ones([2])),
}


def values(layer: Any) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in layer.state_dict().items()}


def answer(layer: Any, given: Any) -> Any:
    layer.eval()
    result = layer(given)
    return (result[0] if isinstance(result, tuple) else result).numpy()


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_fresh_layer_answers_as_the_saved_one(tmp_path: Path, case: str, backend: Any) -> None:
    make, given = LAYERS[case]
    saved, fresh = make(), make()
    path = tmp_path / "model.safetensors"
    save_model(saved, path)
    assert load_model(fresh, path, backend=backend) == ([], [])
    assert values(fresh) == values(saved)
    assert np.array_equal(answer(fresh, given()), answer(saved, given()))


def test_a_layer_in_bfloat16_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved, fresh = halves(), halves()
    save_model(saved, tmp_path / "model.safetensors")
    load_model(fresh, tmp_path / "model.safetensors")
    assert values(fresh) == values(saved)
    assert {str(tensor.dtype) for tensor in fresh.state_dict().values()} == {"paddle.bfloat16"}


def test_of_tied_parameters_one_is_saved_and_the_metadata_names_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(Tied(), path, {"by": "test"})
    header = read_header(path)
    assert sorted(header.tensors) == ["body.0.bias", "body.0.weight", "decoder.weight", "steps"]
    assert header.metadata == {"by": "test", "embedding.weight": "decoder.weight"}


def test_a_view_of_a_whole_parameter_is_tied_to_it_and_one_of_a_part_is_not(tmp_path: Path) -> None:
    layer = paddle.nn.Linear(4, 4)
    layer.register_buffer("same", layer.weight.detach())
    layer.register_buffer("part", layer.weight.detach()[:1])
    layer.register_buffer("turned", layer.weight.detach().T)
    path = tmp_path / "model.safetensors"
    save_model(layer, path)
    assert sorted(load_file(path)) == ["bias", "part", "same", "turned"]
    assert read_header(path).metadata == {"weight": "same"}


@pytest.mark.parametrize("kept", ["decoder.weight", "embedding.weight"])
def test_a_file_with_either_name_of_tied_parameters_fills_both(tmp_path: Path, kept: str) -> None:
    saved, fresh = Tied(), Tied()
    state = dict(saved.state_dict())
    for name in {"decoder.weight", "embedding.weight"} - {kept}:
        del state[name]
    save_file(state, tmp_path / "model.safetensors")
    assert load_model(fresh, tmp_path / "model.safetensors") == ([], [])
    assert values(fresh) == values(saved)
    assert fresh.decoder.weight is fresh.embedding.weight


def test_metadata_is_stored_only_where_there_is_some(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata, stored in ((None, None), ({}, {}), ({"a": "b"}, {"a": "b"})):
        save_model(paddle.nn.Linear(1, 1), path, metadata)
        assert read_header(path).metadata == stored
    with pytest.raises(InvalidInputError, match="mapping"):
        save_model(paddle.nn.Linear(1, 1), path, metadata=[("a", "b")])  # type: ignore[arg-type]


def test_options_reach_the_file(tmp_path: Path) -> None:
    save_model(paddle.nn.Linear(1, 1), tmp_path / "m", alignment=4096, fsync=False)
    assert read_header(tmp_path / "m").data_start == 4096
    with pytest.raises(Exception, match="max_header"):
        load_model(paddle.nn.Linear(1, 1), tmp_path / "m", max_header=16)


@pytest.mark.parametrize("strict", [True, False])
def test_shapes_that_differ_are_an_error_that_changes_nothing(tmp_path: Path, strict: bool) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"bias": paddle.ones([3]), "weight": paddle.ones([3, 4])}, path)
    layer = paddle.nn.Linear(4, 3)
    before = values(layer)
    with pytest.raises(StateDictError) as caught:
        load_model(layer, path, strict)
    assert caught.value.mismatched == {"weight": ([3, 4], [4, 3])}
    assert str(path) in str(caught.value)
    assert values(layer) == before


def test_missing_and_unexpected_names_are_an_error_or_the_result(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"bias": paddle.ones([3]), "extra": paddle.ones([1])}, path)
    layer = paddle.nn.Linear(4, 3)
    before = values(layer)
    with pytest.raises(StateDictError) as caught:
        load_model(layer, path)
    assert (caught.value.missing, caught.value.unexpected) == (["weight"], ["extra"])
    assert values(layer) == before
    assert load_model(layer, path, strict=False) == (["weight"], ["extra"])
    assert layer.bias.tolist() == [1, 1, 1]
    assert values(layer)["weight"] == before["weight"]


@pytest.mark.parametrize("found", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("expected", ["float32", "bfloat16"])
def test_floating_point_numbers_are_converted_to_the_layer_s_type(
    tmp_path: Path, found: str, expected: str
) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"weight": paddle.full([4, 3], 1.5), "bias": paddle.full([3], -2.0)}
    save_file({name: tensor.astype(found) for name, tensor in tensors.items()}, path)
    layer = paddle.nn.Linear(4, 3)
    layer.to(dtype=expected)
    assert load_model(layer, path) == ([], [])
    for name, tensor in layer.state_dict().items():
        assert str(tensor.dtype) == f"paddle.{expected}"
        assert np.array_equal(tensor.astype("float32").numpy(), tensors[name].numpy())


@pytest.mark.parametrize("found", ["int64", "bool", "complex64", "float8_e4m3fn"])
def test_numbers_of_another_kind_are_an_error_that_changes_nothing(
    tmp_path: Path, found: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"bias": paddle.ones([3]), "weight": paddle.ones([4, 3]).astype(found)}, path)
    layer = paddle.nn.Linear(4, 3)
    before = values(layer)
    with pytest.raises(InvalidInputError, match=rf"'weight' is paddle\.{found}, .*paddle\.float32"):
        load_model(layer, path)
    assert values(layer) == before


def test_a_file_with_a_dtype_that_paddle_lacks_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = b'{"bias":{"dtype":"U32","shape":[3],"data_offsets":[0,12]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    layer = paddle.nn.Linear(4, 3)
    before = values(layer)
    with pytest.raises(UnsupportedDtypeError, match="'bias'"):
        load_model(layer, path, strict=False)
    assert values(layer) == before


def test_parameters_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(paddle.nn.Linear(4, 3), path)
    layer = paddle.nn.Linear(4, 3)
    weight, address = layer.weight, layer.weight.data_ptr()
    load_model(layer, path, backend="mmap")
    assert layer.weight is weight
    assert layer.weight.data_ptr() == address
    assert not layer.weight.stop_gradient
    before = path.read_bytes()
    optimizer = paddle.optimizer.Adam(parameters=layer.parameters())
    layer(paddle.ones([1, 4])).sum().backward()
    optimizer.step()
    assert path.read_bytes() == before


def test_parameters_without_data_yet_are_made_by_loading(tmp_path: Path) -> None:
    saved = paddle.nn.Linear(4, 3)
    path = tmp_path / "model.safetensors"
    save_model(saved, path)
    with paddle.LazyGuard():
        lazy = paddle.nn.Linear(4, 3)
    with pytest.raises(InvalidInputError, match=r"'weight'.*uninitialized"):
        save_model(lazy, tmp_path / "lazy.safetensors")
    assert load_model(lazy, path) == ([], [])
    assert values(lazy) == values(saved)


def test_what_hooks_of_the_state_dict_convert_is_saved_converted(tmp_path: Path) -> None:
    # Paddle's mixed precision saves float32 this way.
    layer = Tied()

    def widen(state: Any) -> None:
        for name in list(state):
            if state[name].is_floating_point():
                state[name] = state[name].astype("float64")

    layer.register_state_dict_hook(widen)
    path = tmp_path / "model.safetensors"
    save_model(layer, path)
    loaded = load_file(path)
    assert str(loaded["decoder.weight"].dtype) == "paddle.float64"
    assert "embedding.weight" not in loaded
    assert load_model(Tied(), path) == ([], [])


def test_saving_a_layer_changes_nothing_in_it(tmp_path: Path) -> None:
    layer = Tied()
    before, addresses = values(layer), [p.data_ptr() for p in layer.parameters()]
    save_model(layer, tmp_path / "model.safetensors")
    assert values(layer) == before
    assert [p.data_ptr() for p in layer.parameters()] == addresses
    assert save(layer.state_dict())


@pytest.mark.parametrize("layer", [None, {"weight": 1}, paddle.nn.Linear])
def test_other_things_are_no_layers(tmp_path: Path, layer: Any) -> None:
    path = tmp_path / "model.safetensors"
    for call in (save_model, load_model):
        with pytest.raises(InvalidInputError, match=r"expected a paddle\.nn\.Layer"):
            call(layer, path)
    assert not path.exists()


def test_progress_is_told_of_saving_and_of_loading(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    path = tmp_path / "model.safetensors"

    def progress(done: int, total: int) -> None:
        reports.append((done, total))

    save_model(paddle.nn.Linear(2, 3), path, progress=progress)
    assert reports[-1] == (path.stat().st_size,) * 2
    load_model(paddle.nn.Linear(2, 3), path, progress=progress)
    assert reports[-1] == (36, 36)
