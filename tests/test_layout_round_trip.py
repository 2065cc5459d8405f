"""Weights of PyTorch compute the same in Flax and Keras, and come back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen
from flax.traverse_util import unflatten_dict

from safetensors_core import InvalidInputError, convert_file, load_file, read_header
from safetensors_tensorflow import load_model, save_model
from tests.layout_models import MODELS, FlaxConvNet, TorchConvNet, example, trained

# The steps of a batch norm have 64 bits, which JAX says of what it loads.
pytestmark = pytest.mark.filterwarnings("ignore:.*jax_enable_x64:UserWarning")

# Lists are named otherwise in Flax and Keras, and Keras names the model too.
RULES = {
    "modules": [{"torch": "blocks.{n}", "flax": "blocks_{n}", "tensorflow": "blocks_{n}"}],
    "roots": {"tensorflow": "model"},
}
# Largest difference between outputs near 1: frameworks add float32 in orders of their own.
TOLERANCE = 1e-5


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(RULES), "utf-8")
    return path


def saved(model: torch.nn.Module, folder: Path) -> Path:
    path = folder / "pytorch_model.bin"
    torch.save(model.state_dict(), path)
    return path


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[object, object, bytes]]:
    return {
        name: (t.dtype, t.shape, t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, t in tensors.items()
    }


@pytest.mark.parametrize("own", [False, True], ids=["built-in", "own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["flax", "tensorflow"])
def test_weights_of_pytorch_come_back_bit_by_bit(
    kind: str, layout: str, dtype: torch.dtype, *, own: bool, rules: Path, tmp_path: Path
) -> None:
    model = trained(kind).to(dtype)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    options: dict[str, Any] = {"layout_rules": rules if own else None}
    convert_file(saved(model, tmp_path), there, target_layout=layout, **options)
    convert_file(there, back, target_layout="torch", **options)
    assert load_file(there).keys() != model.state_dict().keys()
    loaded = load_file(back, "torch")
    assert bits(loaded) == bits(model.state_dict())
    assert model.load_state_dict(loaded, strict=True)


def test_a_file_says_the_format_of_its_layout(tmp_path: Path) -> None:
    source = saved(trained("mlp"), tmp_path)
    for layout, format_name in (("flax", "flax"), ("tensorflow", "tf"), ("torch", "pt")):
        path = tmp_path / f"{layout}.safetensors"
        convert_file(source, path, target_layout=layout)
        assert (read_header(path).metadata or {})["format"] == format_name


def test_a_model_of_flax_computes_what_that_of_pytorch_does(
    kind: str, rules: Path, tmp_path: Path
) -> None:
    model, path = trained(kind), tmp_path / "flax.safetensors"
    convert_file(saved(model, tmp_path), path, target_layout="flax", layout_rules=rules)
    variables = unflatten_dict(load_file(path, "flax"), sep=".")
    computed = MODELS[kind][1]().apply(variables, jnp.asarray(example(kind)))
    expected = model(torch.from_numpy(example(kind))).detach().numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(computed, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_model_of_keras_computes_what_that_of_pytorch_does(
    kind: str, rules: Path, tmp_path: Path
) -> None:
    model, path = trained(kind), tmp_path / "keras.safetensors"
    convert_file(saved(model, tmp_path), path, target_layout="tensorflow", layout_rules=rules)
    copy = MODELS[kind][2]()
    copy(example(kind))
    missing, unexpected = load_model(copy, path, strict=False)
    assert missing == []
    # Keras does not count the steps of a batch norm.
    assert all(name.endswith("/num_batches_tracked") for name in unexpected)
    expected = model(torch.from_numpy(example(kind))).detach().numpy()
    np.testing.assert_allclose(copy(example(kind)), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_file_of_flax_computes_the_same_in_pytorch(
    kind: str, rules: Path, tmp_path: Path
) -> None:
    model, x = MODELS[kind][1](), example(kind)
    variables = model.init(jax.random.key(0), x)
    source, path = tmp_path / "flax_model.msgpack", tmp_path / "torch.safetensors"
    source.write_bytes(flax.serialization.to_bytes(variables))
    convert_file(source, path, target_layout="torch", layout_rules=rules)
    copy = MODELS[kind][0]().eval()
    # Assigned and not copied: the head of this model is tied to nothing.
    copy.load_state_dict(load_file(path, "torch"), strict=True, assign=True)
    computed = copy(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(computed, model.apply(variables, x), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_model_of_keras_computes_the_same_in_pytorch(
    kind: str, rules: Path, tmp_path: Path
) -> None:
    model, x = MODELS[kind][2](), example(kind)
    expected = model(x)
    source, path = tmp_path / "keras.safetensors", tmp_path / "torch.safetensors"
    save_model(model, source)
    convert_file(
        source, path, source_layout="tensorflow", target_layout="torch", layout_rules=rules
    )
    copy = MODELS[kind][0]().eval()
    copy.load_state_dict(load_file(path, "torch"), strict=True, assign=True)
    computed = copy(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(computed, expected, rtol=TOLERANCE, atol=TOLERANCE)


# Keras says so of itself when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_whole_model_in_the_older_file_of_keras_computes_the_same_in_pytorch(
    tmp_path: Path,
) -> None:
    layers = [
        keras.layers.Conv2D(8, 3, name="conv"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(5, name="fc"),
    ]
    model = keras.Sequential([keras.Input((10, 9, 3)), *layers], name="net")
    source, path, x = tmp_path / "net.h5", tmp_path / "torch.safetensors", example("convolutions")
    model.save(source)
    convert_file(source, path, target_layout="torch")
    copy = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(3, 8, 3), "fc": torch.nn.Linear(8, 5)})
    torch.nn.ModuleDict({"net": copy}).load_state_dict(load_file(path, "torch"), strict=True)
    computed = copy["fc"](copy["conv"](torch.from_numpy(x).permute(0, 3, 1, 2)).mean((2, 3)))
    np.testing.assert_allclose(computed.detach().numpy(), model(x), atol=TOLERANCE)


def test_flax_carries_the_steps_of_a_batch_norm_along(tmp_path: Path) -> None:
    path = tmp_path / "flax.safetensors"
    convert_file(saved(trained("convolutions"), tmp_path), path, target_layout="flax")
    variables = unflatten_dict(load_file(path, "flax"), sep=".")
    network = FlaxConvNet(train=True)
    _, changed = network.apply(variables, example("convolutions"), mutable=["batch_stats"])
    assert int(changed["batch_stats"]["bn1"]["num_batches_tracked"]) == 3
    before = variables["batch_stats"]["bn1"]["mean"]
    assert not np.array_equal(changed["batch_stats"]["bn1"]["mean"], before)


def test_pytorch_loads_a_batch_norm_whose_steps_nobody_counted(tmp_path: Path) -> None:
    model, there = trained("convolutions"), tmp_path / "there.safetensors"
    convert_file(saved(model, tmp_path), there, target_layout="flax", drop="*.num_batches_tracked")
    back = tmp_path / "back.safetensors"
    convert_file(there, back, target_layout="torch")
    copy = TorchConvNet().eval()
    copy.load_state_dict(load_file(back, "torch"), strict=True)
    x = torch.from_numpy(example("convolutions"))
    assert torch.equal(copy(x), model(x))


# Layers of which a rule of one's own must say what they are.

TRANSPOSED = {
    "kind": "transposed convolution",
    "module": ["*.up"],
    "places": {
        "torch": {"name": "weight", "axes": "in out h w", "fits": {"bias": "out"}},
        # Made with transpose_kernel=True.
        "flax": {"name": "kernel", "axes": "h w out in"},
        "tensorflow": {"name": "kernel", "axes": "h w out in"},
    },
}
DEPTHWISE = {
    "kind": "DepthwiseConv2D",
    "module": ["*.depthwise"],
    "sizes": {"multiplier": 1},
    "places": {
        "torch": {"name": "weight", "axes": "in multiplier h w"},
        "tensorflow": {"name": "kernel", "axes": "h w in multiplier"},
    },
}


@pytest.fixture
def own_rules(tmp_path: Path) -> Path:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"rules": [TRANSPOSED, DEPTHWISE]}), "utf-8")
    return path


def test_a_rule_for_transposed_convolutions_gives_the_same_outputs(
    own_rules: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = torch.nn.Sequential()
    model.add_module("up", torch.nn.ConvTranspose2d(3, 5, 3, stride=2))
    source, x = saved(model, tmp_path), example("convolutions")
    with pytest.raises(InvalidInputError, match=r"'up.weight' of shape \[3, 5, 3, 3\]"):
        convert_file(source, tmp_path / "refused", target_layout="flax")
    expected = model(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()

    path = tmp_path / "flax.safetensors"
    convert_file(source, path, target_layout="flax", layout_rules=own_rules)
    [up] = unflatten_dict(load_file(path, "flax"), sep=".")["params"].values()
    layer = linen.ConvTranspose(5, (3, 3), (2, 2), padding="VALID", transpose_kernel=True)
    np.testing.assert_allclose(layer.apply({"params": up}, x), expected, atol=TOLERANCE)

    path = tmp_path / "keras.safetensors"
    convert_file(source, path, target_layout="tensorflow", layout_rules=own_rules)
    copy = keras.layers.Conv2DTranspose(5, 3, strides=2, name="up")
    copy.build(x.shape)
    weights = load_file(path)
    copy.set_weights([weights[weight.path] for weight in copy.weights])
    np.testing.assert_allclose(copy(x), expected, atol=TOLERANCE)


def test_a_rule_for_depthwise_convolutions_gives_the_same_outputs(
    own_rules: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = torch.nn.Sequential()
    model.add_module("depthwise", torch.nn.Conv2d(3, 3, 3, groups=3))
    source, x = saved(model, tmp_path), example("convolutions")
    with pytest.raises(InvalidInputError, match="DepthwiseConv"):
        convert_file(source, tmp_path / "refused", target_layout="tensorflow")
    path = tmp_path / "keras.safetensors"
    convert_file(source, path, target_layout="tensorflow", layout_rules=own_rules)
    copy = keras.layers.DepthwiseConv2D(3, name="depthwise")
    copy.build(x.shape)
    weights = load_file(path)
    copy.set_weights([weights[weight.path] for weight in copy.weights])
    expected = model(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(copy(x), expected, atol=TOLERANCE)


def test_attention_that_packs_its_matrices_is_refused_by_name(tmp_path: Path) -> None:
    source = saved(torch.nn.TransformerEncoderLayer(16, 2, 32), tmp_path)
    said = r"1 of 12 tensors .*'self_attn.in_proj_weight' .*query, key and value in one"
    with pytest.raises(InvalidInputError, match=said):
        convert_file(source, tmp_path / "refused", target_layout="flax")
