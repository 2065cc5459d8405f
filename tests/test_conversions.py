"""Checkpoints that real libraries write are converted, and the reference loads every result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import gguf
import jax.numpy as jnp
import keras
import mlx.core as mx
import numpy as np
import numpy.typing as npt
import onnx
import orbax.checkpoint
import paddle
import pytest
import safetensors.torch as reference
import tensorflow as tf
import torch

from safetensors_core import convert_file, load_file

pytestmark = [
    # What the libraries do where they write and load their own files.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning"),
]

Arrays = dict[str, npt.NDArray[Any]]

rng = np.random.default_rng(7)
WEIGHTS: Arrays = {
    "dense.weight": rng.standard_normal((3, 4), dtype=np.float32),
    "dense.bias": np.array([0.0, -0.0, np.inf, np.nan], np.float32),
    "step": np.array([1, -2, 2**40]),
}


def with_torch(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "pytorch_model.bin"
    torch.save({name: torch.from_numpy(array) for name, array in WEIGHTS.items()}, path)
    return path, {name: t.numpy() for name, t in torch.load(path, weights_only=True).items()}


def with_old_torch(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "model.pth"
    tensors = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=False)
    loaded = torch.load(path, weights_only=True)["state_dict"]
    return path, {name: t.numpy() for name, t in loaded.items()}


def with_numpy(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "model.npz"
    arrays: dict[str, Any] = dict(WEIGHTS)
    np.savez_compressed(path, **arrays)
    with np.load(path) as loaded:
        return path, dict(loaded)


def with_one_array(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "embedding.npy"
    np.save(path, np.asfortranarray(WEIGHTS["dense.weight"]))
    return path, {"embedding": np.load(path)}


def keras_model() -> keras.Model:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Dense(2)]
    )
    for variable in model.variables:
        variable.assign(rng.standard_normal(variable.shape))
    return model


def values(model: keras.Model) -> list[npt.NDArray[Any]]:
    return [variable.numpy() for variable in model.variables]


def with_keras(folder: Path) -> tuple[Path, list[npt.NDArray[Any]]]:
    path = folder / "model.keras"
    keras_model().save(path)
    return path, values(keras.saving.load_model(path))


def with_keras_weights(folder: Path) -> tuple[Path, list[npt.NDArray[Any]]]:
    path, model = folder / "model.weights.h5", keras_model()
    model.save_weights(path)
    other = keras_model()
    other.load_weights(path)
    return path, values(other)


def with_keras_h5(folder: Path) -> tuple[Path, list[npt.NDArray[Any]]]:
    path = folder / "model.h5"
    keras_model().save(path)
    return path, values(keras.saving.load_model(path, compile=False))


def with_tensorflow(folder: Path) -> tuple[Path, Arrays]:
    variables = {name.replace(".", "_"): tf.Variable(array) for name, array in WEIGHTS.items()}
    path = Path(tf.train.Checkpoint(**variables).write(str(folder / "model.ckpt")))
    reader = tf.train.load_checkpoint(str(path))
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    return path, {name: reader.get_tensor(name + suffix) for name in variables}


def with_flax(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "flax_model.msgpack"
    dense = {"kernel": jnp.asarray(WEIGHTS["dense.weight"]), "bias": WEIGHTS["dense.bias"]}
    path.write_bytes(flax.serialization.to_bytes({"params": {"dense": dense}}))
    loaded = flax.serialization.msgpack_restore(path.read_bytes())["params"]["dense"]
    return path, {f"params.dense.{name}": np.asarray(a) for name, a in loaded.items()}


def with_orbax(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "orbax"
    dense = {"kernel": jnp.asarray(WEIGHTS["dense.weight"]), "bias": WEIGHTS["dense.bias"]}
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, {"params": {"dense": dense}})
        loaded = checkpointer.restore(path)["params"]["dense"]
    return path, {f"params.dense.{name}": np.asarray(a) for name, a in loaded.items()}


def with_paddle(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "model.pdparams"
    paddle.save({name: paddle.to_tensor(array) for name, array in WEIGHTS.items()}, str(path))
    return path, {name: t.numpy() for name, t in paddle.load(str(path)).items()}


def with_mlx(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "model.npz"
    mx.savez(str(path), **{name: mx.array(array) for name, array in WEIGHTS.items()})
    return path, {name: np.asarray(a) for name, a in mx.load(str(path)).items()}


def with_onnx(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "model.onnx"
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    graph = onnx.helper.make_graph([], "g", [], [], tensors)
    onnx.save(onnx.helper.make_model(graph), path)
    loaded = onnx.load(path).graph.initializer
    return path, {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loaded}


def with_gguf(folder: Path) -> tuple[Path, Arrays]:
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, array in WEIGHTS.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = gguf.GGUFReader(path).tensors
    return path, {tensor.name: np.array(tensor.data) for tensor in read}


NAMED = [
    with_torch, with_old_torch, with_numpy, with_one_array, with_tensorflow, with_flax, with_orbax,
    with_paddle, with_mlx, with_onnx, with_gguf,
]  # fmt: skip
KERAS = [with_keras, with_keras_weights, with_keras_h5]


def bits(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (a.dtype.name, a.shape, np.asarray(a).tobytes()) for name, a in arrays.items()}


@pytest.mark.parametrize("write", NAMED, ids=lambda write: write.__name__)
def test_each_tensor_is_what_its_own_library_loads(
    tmp_path: Path, write: Callable[[Path], tuple[Path, Arrays]]
) -> None:
    path, expected = write(tmp_path)
    result = convert_file(path, tmp_path / "out.safetensors")
    assert result.verified
    assert bits(load_file(tmp_path / "out.safetensors")) == bits(expected)
    loaded = reference.load_file(tmp_path / "out.safetensors")
    assert bits({name: tensor.numpy() for name, tensor in loaded.items()}) == bits(expected)


@pytest.mark.parametrize("write", KERAS, ids=lambda write: write.__name__)
def test_each_weight_of_a_keras_model_is_there(
    tmp_path: Path, write: Callable[[Path], tuple[Path, list[npt.NDArray[Any]]]]
) -> None:
    path, expected = write(tmp_path)
    convert_file(path, tmp_path / "out.safetensors")
    loaded = reference.load_file(tmp_path / "out.safetensors")
    found = sorted((tuple(t.shape), t.numpy().tobytes()) for t in loaded.values())
    assert found == sorted((array.shape, array.tobytes()) for array in expected)


@pytest.mark.parametrize("write", [*NAMED, *KERAS], ids=lambda write: write.__name__)
def test_the_result_says_which_framework_it_came_from(
    tmp_path: Path, write: Callable[[Path], tuple[Path, Any]]
) -> None:
    path, _ = write(tmp_path)
    formats = {"torch": "pt", "keras": "tf", "tensorflow": "tf", "flax": "flax", "orbax": "flax"}
    library = next((name for name in formats if name in write.__name__), None)
    found = convert_file(path, tmp_path / "out.safetensors").metadata["format"]
    assert found == formats[library] if library else found in {"np", "pd", "mlx"}
