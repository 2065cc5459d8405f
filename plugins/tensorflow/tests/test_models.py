"""Whole Keras models: what is saved of them, and what a load does and refuses to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from safetensors_core import (
    Dtype,
    HeaderError,
    InvalidInputError,
    StateDictError,
    UnsupportedDtypeError,
    read_header,
)
from safetensors_tensorflow import load_file, load_model, save, save_file, save_model

X = np.random.default_rng(0).random((5, 4), np.float32)
layers = keras.layers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is saved."""
    return tmp_path / "model.safetensors"


class Subclassed(keras.Model):  # type: ignore[misc]
    """A model that makes its layers itself, one of them in a list and one used twice."""

    def __init__(self) -> None:
        super().__init__(name="net")
        self.first = layers.Dense(4, name="first")
        self.again = self.first
        self.blocks = [layers.Dense(4, name="block"), layers.BatchNormalization(name="norm")]

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.blocks[0].build((None, 4))
        self.blocks[1].build((None, 4))
        super().build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.again(self.first(x))
        return self.blocks[1](self.blocks[0](x), training=training)


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, name="a"),
            layers.Dropout(0.5, seed=1),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="b"),
        ],
        name="net",
    )


def functional() -> Any:
    x = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d")], name="inner")
    return keras.Model(x, layers.Add()([shared(x), inner(shared(x))]), name="net")


def subclassed() -> Any:
    model = Subclassed()
    model.build((None, 4))
    return model


def dense(**options: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(2, name="d", **options)], name="net")


def disturb(model: Any) -> Any:
    """Give every weight a value of its own."""
    for i, variable in enumerate(model.weights):
        variable.assign(np.random.default_rng(i).random(variable.shape) + i)
    return model


def values(model: Any) -> list[bytes]:
    return [np.asarray(variable).tobytes() for variable in model.weights]


MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "sequential": (
        sequential,
        [
            "net/a/bias",
            "net/a/kernel",
            "net/b/bias",
            "net/b/kernel",
            "net/norm/beta",
            "net/norm/gamma",
            "net/norm/moving_mean",
            "net/norm/moving_variance",
        ],
    ),
    "functional": (functional, ["inner/d/bias", "inner/d/kernel", "shared/bias", "shared/kernel"]),
    "subclassed": (
        subclassed,
        [
            "net/block/bias",
            "net/block/kernel",
            "net/first/bias",
            "net/first/kernel",
            "net/norm/beta",
            "net/norm/gamma",
            "net/norm/moving_mean",
            "net/norm/moving_variance",
        ],
    ),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("alignment", [8, 64])
def test_a_fresh_model_computes_what_the_saved_one_did(
    kind: str, backend: Any, alignment: int, path: Path
) -> None:
    make, names = MODELS[kind]
    model = disturb(make())
    save_model(model, path, {"by": "test"}, alignment=alignment, fsync=False)
    header = read_header(path)
    assert (sorted(header.tensors), header.metadata) == (names, {"by": "test"})
    fresh = make()
    assert values(fresh) != values(model)
    assert load_model(fresh, path, backend=backend) == ([], [])
    assert values(fresh) == values(model)
    assert np.array_equal(fresh(X), model(X))


def test_a_trained_model_leaves_its_optimizer_and_metrics_out(path: Path) -> None:
    model = sequential()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, np.zeros((5, 2)), verbose=0)
    save_model(model, path)
    assert sorted(read_header(path).tensors) == MODELS["sequential"][1]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_training_a_loaded_model_changes_neither_the_file_nor_another_model(
    path: Path, backend: Any
) -> None:
    save_model(disturb(sequential()), path, alignment=64)
    before = path.read_bytes()
    trained, other = sequential(), sequential()
    load_model(trained, path, backend=backend)
    load_model(other, path, backend=backend)
    kept = values(other)
    trained.compile("adam", "mse")
    trained.fit(X, np.zeros((5, 2)), epochs=2, verbose=0)
    assert values(trained) != kept
    assert values(other) == kept
    assert path.read_bytes() == before


def test_layers_are_models_too(path: Path) -> None:
    layer, fresh = layers.Dense(2, name="d"), layers.Dense(2, name="d")
    layer.build((None, 4))
    fresh.build((None, 4))
    save_model(layer, path)
    assert load_model(fresh, path) == ([], [])
    assert values(fresh) == values(layer)


@pytest.mark.parametrize(("policy", "code"), [("bfloat16", "BF16"), ("mixed_bfloat16", "F32")])
def test_variables_are_saved_in_the_dtype_that_they_have(
    path: Path, policy: str, code: str
) -> None:
    model, fresh = disturb(dense(dtype=policy)), dense(dtype=policy)
    save_model(model, path)
    assert {info.dtype.value for info in read_header(path).tensors.values()} == {code}
    load_model(fresh, path)
    assert values(fresh) == values(model)
    assert np.array_equal(tf.cast(fresh(X), tf.float32), tf.cast(model(X), tf.float32))


def test_values_are_converted_to_the_dtypes_of_the_model(path: Path) -> None:
    save_model(disturb(dense(dtype="float32")), path)
    model = dense(dtype="bfloat16")
    assert load_model(model, path) == ([], [])
    expected = tf.cast(load_file(path)["net/d/kernel"], tf.bfloat16)
    assert model.weights[0].dtype == "bfloat16"
    assert np.asarray(model.weights[0]).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize(
    ("found", "expected"), [("int64", "uint8"), ("int64", "int32"), ("int32", "float32")]
)
def test_integers_are_not_changed(path: Path, found: str, expected: str) -> None:
    layer = layers.Layer(name="counter")
    layer.count = layer.add_weight(shape=(2,), dtype=expected, name="count", initializer="ones")
    layer.built = True
    save_file({"counter/count": tf.constant([300, -1], found)}, path)
    with pytest.raises(InvalidInputError, match=f"cannot become {expected}"):
        load_model(layer, path)
    assert np.asarray(layer.count).tolist() == [1, 1]


def test_integers_become_wider_ones(path: Path) -> None:
    layer = layers.Layer(name="counter")
    layer.count = layer.add_weight(shape=(2,), dtype="int64", name="count", initializer="ones")
    layer.built = True
    save_file({"counter/count": tf.constant([300, -1], "int32")}, path)
    assert load_model(layer, path) == ([], [])
    assert np.asarray(layer.count).tolist() == [300, -1]


def test_fractions_do_not_become_integers(path: Path) -> None:
    layer = layers.Layer(name="counter")
    layer.count = layer.add_weight(shape=(2,), dtype="int32", name="count", initializer="ones")
    layer.built = True
    save_file({"counter/count": tf.constant([1.5, 2.5])}, path)
    with pytest.raises(InvalidInputError, match=r"'counter/count': F32 .* cannot become int32"):
        load_model(layer, path)
    assert np.asarray(layer.count).tolist() == [1, 1]
    save_file({"counter/count": tf.constant([5, 6], tf.uint8)}, path)
    load_model(layer, path)
    assert np.asarray(layer.count).tolist() == [5, 6]


def test_names_that_do_not_match_are_refused_and_nothing_is_changed(path: Path) -> None:
    save_file({"net/d/kernel": tf.ones((4, 2)), "other": tf.ones(1)}, path)
    model = dense()
    before = values(model)
    with pytest.raises(StateDictError) as caught:
        load_model(model, path)
    assert (caught.value.missing, caught.value.unexpected) == (["net/d/bias"], ["other"])
    assert values(model) == before
    assert load_model(model, path, strict=False) == (["net/d/bias"], ["other"])
    assert np.asarray(model.weights[0]).tolist() == [[1, 1]] * 4
    assert np.asarray(model.weights[1]).tobytes() == before[1]


@pytest.mark.parametrize("strict", [True, False])
def test_shapes_that_differ_are_refused_and_nothing_is_changed(path: Path, strict: bool) -> None:
    save_file({"net/d/kernel": tf.ones((4, 3)), "net/d/bias": tf.ones(2)}, path)
    model = dense()
    before = values(model)
    with pytest.raises(StateDictError, match="other shapes") as caught:
        load_model(model, path, strict)
    assert caught.value.mismatched == {"net/d/kernel": ([4, 3], [4, 2])}
    assert values(model) == before


def test_only_what_the_model_has_is_read(path: Path) -> None:
    model = dense()
    data = save(
        {"net/d/kernel": tf.ones((4, 2)), "net/d/bias": tf.ones(2), "extra!": tf.ones(4, tf.int32)}
    )
    # A dtype that TensorFlow does not have, in a tensor that the model does not have.
    begin, end = b'"extra!":{"dtype":"I32","shape":[4]', b'"x":{"dtype":"F8_E8M0","shape":[16]'
    path.write_bytes(data.replace(begin, end))
    assert read_header(path).tensors["x"].dtype is Dtype.F8_E8M0
    assert load_model(model, path, strict=False) == ([], ["x"])
    path.write_bytes(path.read_bytes().replace(b'"x"', b'"y"'))
    with pytest.raises(UnsupportedDtypeError):
        load_file(path)


def test_models_without_variables_are_to_be_built_first(path: Path) -> None:
    for model in (keras.Sequential([layers.Dense(2)], name="net"), Subclassed()):
        with pytest.raises(InvalidInputError, match=r"model 'net' .*model\.build"):
            save_model(model, path)
        with pytest.raises(InvalidInputError, match=r"model 'net' .*model\.build"):
            load_model(model, path)
    assert not path.exists()


def test_two_variables_with_one_path_are_refused_by_name(path: Path) -> None:
    layer = layers.Layer(name="pair")
    layer.one = layer.add_weight(shape=(2,), name="w")
    layer.two = layer.add_weight(shape=(2,), name="w")
    layer.built = True
    for call in (save_model, load_model):
        with pytest.raises(InvalidInputError, match=r"two variables .* 'pair/w'"):
            call(layer, path)
    assert not path.exists()


@pytest.mark.parametrize("model", [None, {"w": 1}, tf.Module(), tf.Variable(1.0)])
def test_other_things_are_no_models(model: Any, path: Path) -> None:
    for call in (save_model, load_model):
        with pytest.raises(InvalidInputError, match="expected a model or layer of Keras 3"):
            call(model, path)


def test_load_model_passes_its_options_on(path: Path) -> None:
    model = dense()
    save_model(model, path)
    length = read_header(path).data_start - 8
    assert load_model(model, path, max_header=length) == ([], [])
    with pytest.raises(HeaderError):
        load_model(model, path, max_header=length - 1)
    with pytest.raises(InvalidInputError, match="does not exist"):
        load_model(model, path, device="cpu:9")
    with pytest.raises(InvalidInputError, match="backend"):
        load_model(model, path, backend="tape")  # type: ignore[arg-type]


def test_variables_of_keras_are_tensors() -> None:
    model = disturb(dense())
    saved = save({variable.path: variable for variable in model.weights})
    assert saved == save({variable.path: variable.value for variable in model.weights})


@pytest.mark.skipif(importlib.util.find_spec("safetensors_jax") is None, reason="needs JAX")
def test_keras_may_compute_with_another_framework(path: Path) -> None:
    model = disturb(dense())
    save_model(model, path)
    program = (
        "import sys, keras\n"
        "from safetensors_tensorflow import load_model, save_model\n"
        "dense = keras.layers.Dense(2, name='d')\n"
        "model = keras.Sequential([keras.Input((4,)), dense], name='net')\n"
        "assert load_model(model, sys.argv[1]) == ([], [])\n"
        "save_model(model, sys.argv[1] + '.again')\n"
        "assert keras.backend.backend() == 'jax'\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=environment)
    assert Path(f"{path}.again").read_bytes() == path.read_bytes()


def test_progress_is_told_of_saving_and_of_loading(path: Path) -> None:
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))

    model = sequential()
    save_model(model, path, progress=progress)
    assert reports[-1] == (path.stat().st_size,) * 2
    load_model(model, path, progress=progress)
    nbytes = sum(variable.value.shape.num_elements() * 4 for variable in model.weights)
    assert reports[-1] == (nbytes, nbytes)
