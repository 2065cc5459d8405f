"""Files of Keras are read as Keras reads them, bit by bit."""

from __future__ import annotations

import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from safetensors_core import Dtype, save_file
from safetensors_core.convert import ForeignCheckpoint
from safetensors_core.errors import ConversionError
from safetensors_tensorflow import _plugin, load_model

# Keras's variables do not know the arguments of NumPy 2 yet, which warns when Keras saves them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def read(path: Path, optimizer: bool = False) -> ForeignCheckpoint:
    found = _plugin.safetensors_read_checkpoint(path, optimizer)
    assert found is not None
    return found


def values(found: ForeignCheckpoint) -> dict[str, Any]:
    """All tensors, twice and in both ways, which must agree; then the file is let go of."""
    arrays = {}
    for _ in range(2):
        for name, tensor in found:
            arrays[name] = tensor.read()
            assert arrays[name].shape == tensor.spec.shape
            assert arrays[name].nbytes == tensor.spec.nbytes
            if tensor.chunks is not None:
                assert b"".join(tensor.chunks()) == arrays[name].tobytes()
    found.close()
    return arrays


def same(first: Any, second: Any) -> bool:
    first, second = np.asarray(first), np.asarray(second)
    return (first.dtype, first.shape, first.tobytes()) == (
        second.dtype,
        second.shape,
        second.tobytes(),
    )


def pictures() -> keras.Model:
    """Convolution, normalization, a layer that is used twice, a model in the model, bfloat16."""
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="low", dtype="bfloat16")], name="inner"
    )
    image = keras.Input((6, 6, 3))
    hidden = keras.layers.Conv2D(4, 3, name="conv")(image)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Model(image, inner(shared(shared(hidden))), name="pictures")
    model.compile("adam", "mse")
    model.fit(np.ones((4, 6, 6, 3), np.float32), np.ones((4, 4), np.float32), verbose=0)
    return model


def words() -> keras.Model:
    """Embedding and recurrent layers."""
    cell = keras.layers.LSTM(3, name="lstm")
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Embedding(9, 4), keras.layers.Bidirectional(cell)],
        name="words",
    )


@pytest.fixture(scope="module", params=[pictures, words])
def model(request: pytest.FixtureRequest) -> keras.Model:
    built: keras.Model = request.param()
    return built


def stored(file: h5py.File, path: str) -> Any:
    """A dataset as Keras reads it."""
    return keras.src.saving.saving_lib.H5IOStore.__getitem__(Store(file), path)


class Store:
    def __init__(self, group: h5py.Group) -> None:
        self._h5_entry_group = group


def test_a_whole_model_of_keras_2_has_the_names_and_order_of_its_variables(
    model: keras.Model, tmp_path: Path
) -> None:
    model.save(tmp_path / "a.h5")
    found = read(tmp_path / "a.h5")
    arrays = values(found)
    assert list(arrays) == [variable.path for variable in model.weights]
    for variable in model.weights:
        assert same(arrays[variable.path], variable.value.numpy())
    assert found.metadata["keras_version"] == keras.__version__
    assert found.left_out["model_config"] == "the configuration of a model, no tensor"
    assert (found.framework, found.format) == ("numpy", "tf")


def test_what_was_read_loads_into_the_model(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "a.h5")
    save_file(values(read(tmp_path / "a.h5")), tmp_path / "a.safetensors")
    before = [variable.value.numpy() for variable in model.weights]
    for variable in model.weights:
        variable.assign(variable.value * 0 - 1)
    assert load_model(model, tmp_path / "a.safetensors") == ([], [])
    for variable, value in zip(model.weights, before, strict=True):
        assert same(variable.value.numpy(), value)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_files_of_keras_3_have_the_paths_in_the_file(
    model: keras.Model, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    arrays = values(read(path))
    held = sorted(variable.value.numpy().tobytes() for variable in model.weights)
    assert sorted(array.tobytes() for array in arrays.values()) == held
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            path = Path(archive.extract("model.weights.h5", tmp_path))
    with h5py.File(path, "r") as file:
        for name, array in arrays.items():
            assert same(array, stored(file, name)), name


def test_bfloat16_is_bfloat16_in_all_files(tmp_path: Path) -> None:
    model = pictures()
    model.save(tmp_path / "a.h5")
    model.save_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "a.keras")
    names = {"a.h5": "inner/low/kernel", "a.weights.h5": "layers/sequential/layers/dense/vars/0"}
    names["a.keras"] = names["a.weights.h5"]
    kernel = model.get_layer("inner").get_layer("low").kernel.value.numpy()
    for file, name in names.items():
        found = read(tmp_path / file)
        assert found.tensors[name].spec.dtype is Dtype.BF16
        assert same(values(found)[name], kernel)


@pytest.mark.parametrize("file", ["a.h5", "a.weights.h5", "a.keras"])
def test_the_state_of_the_optimizer_is_left_out_unless_asked_for(tmp_path: Path, file: str) -> None:
    model = pictures()
    path = tmp_path / file
    model.save_weights(path) if file == "a.weights.h5" else model.save(path)
    found = read(path)
    without = values(found)
    assert len(without) == len(model.weights)
    states = [name for name, reason in found.left_out.items() if reason == "state of an optimizer"]
    everything = values(read(path, optimizer=True))
    assert sorted(everything) == sorted([*without, *states])
    held = sorted(variable.value.numpy().tobytes() for variable in model.optimizer.variables)
    assert sorted(everything[name].tobytes() for name in states) == held


def test_weights_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    class Many(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        def build(self, shape: Any) -> None:
            for _ in range(12):
                self.add_weight(shape=(1,))

    model = keras.Sequential([keras.Input((1,)), Many()])
    model.save_weights(tmp_path / "a.weights.h5")
    names = list(values(read(tmp_path / "a.weights.h5")))
    assert [name.rpartition("/")[2] for name in names] == [str(i) for i in range(12)]


def legacy(path: Path, layers: dict[str, dict[str, Any]]) -> Path:
    """Weights as Keras 2 writes them, which nobody can install beside Keras 3."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"] = b"tensorflow"
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                group.create_dataset(name, data=value)
    return path


def test_names_of_keras_2_are_kept_as_they_are(tmp_path: Path) -> None:
    ones = np.ones((2, 3), np.float32)
    path = legacy(tmp_path / "a", {"b": {"b/kernel:0": ones}, "a": {"a/kernel:0": ones}})
    assert list(values(read(path))) == ["b/kernel:0", "a/kernel:0"]


def test_weights_of_one_name_have_their_layers_in_front(tmp_path: Path) -> None:
    ones = np.ones((2, 3), np.float32)
    path = legacy(tmp_path / "a", {"x": {"t/w:0": ones}, "y": {"t/w:0": 2 * ones}})
    arrays = values(read(path))
    assert list(arrays) == ["x/t/w:0", "y/t/w:0"]
    assert same(arrays["y/t/w:0"], 2 * ones)


def test_weights_of_two_models_are_all_there_though_names_and_values_are_equal(
    tmp_path: Path,
) -> None:
    def part(name: str) -> keras.Model:
        image = keras.Input((3,))
        return keras.Model(image, keras.layers.BatchNormalization(name="norm")(image), name=name)

    image = keras.Input((3,))
    keras.Model(image, part("right")(part("left")(image))).save(tmp_path / "a.h5")
    arrays = values(read(tmp_path / "a.h5"))
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    assert list(arrays) == [f"{side}/norm/{part}" for side in ("left", "right") for part in parts]


def test_a_list_of_names_in_several_pieces_is_read(tmp_path: Path) -> None:
    names = [f"layer_{i}_{'x' * 1000}" for i in range(70)]
    inputs = keras.Input((1,))
    model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(inputs) for name in names])
    model.save(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert "layer_names1" in file["model_weights"].attrs
    assert len(values(read(tmp_path / "a.h5"))) == 140


def test_datasets_that_are_compressed_or_big_endian_come_back_exactly(tmp_path: Path) -> None:
    value = np.arange(5000, dtype=np.float32).reshape(50, 100)
    path = legacy(tmp_path / "a", {"x": {"big": value.astype(">f4"), "packed": value}})
    with h5py.File(path, "a") as file:
        del file["x/packed"]
        file["x"].create_dataset(
            "packed", data=value, compression="gzip", shuffle=True, fletcher32=True
        )
    found = read(path)
    big, packed = found.tensors["big"], found.tensors["packed"]
    assert big.read().dtype == np.dtype(">f4")
    assert same(big.read().astype("<f4"), value)
    assert big.chunks is not None
    assert b"".join(big.chunks()) == value.tobytes()
    assert same(packed.read(), value)
    found.close()


def test_a_large_dataset_comes_in_pieces(tmp_path: Path) -> None:
    value = np.arange(9 * 2**20, dtype=np.float32).reshape(9, 2**10, 2**10)
    found = read(legacy(tmp_path / "a", {"x": {"w": value}}))
    chunks = found.tensors["w"].chunks
    assert chunks is not None
    pieces = [bytes(piece) for piece in chunks()]
    assert len(pieces) > 1
    assert b"".join(pieces) == value.tobytes()
    found.close()


def test_a_compressed_archive_is_read_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pictures()
    model.save(tmp_path / "a.keras")
    with (
        zipfile.ZipFile(tmp_path / "a.keras") as old,
        zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    plain, packed = values(read(tmp_path / "a.keras")), values(read(tmp_path / "b.keras"))
    assert list(plain) == list(packed)
    assert all(same(plain[name], packed[name]) for name in plain)
    assert not list((tmp_path / "temporary").iterdir())


def test_code_in_the_configuration_is_never_run(tmp_path: Path) -> None:
    target = tmp_path / "was_run"
    code = compile(f"open({str(target)!r}, 'w').close()", "lambda", "exec")
    function = types.FunctionType(code, {"open": open})
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Lambda(function, output_shape=(3,)), keras.layers.Dense(2)]
    )
    target.unlink(missing_ok=True)
    for name in ("a.keras", "a.h5"):
        model.save(tmp_path / name)
        assert len(values(read(tmp_path / name))) == 2
    assert not target.exists()


@pytest.mark.parametrize("file", ["a.h5", "a.weights.h5", "a.keras"])
def test_files_are_read_without_keras_and_tensorflow(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    model = words()
    model.save_weights(path) if file == "a.weights.h5" else model.save(path)
    program = (
        "import sys; from safetensors_tensorflow import _plugin; "
        f"found = _plugin.safetensors_read_checkpoint({str(path)!r}, False); "
        "[tensor.read() for _, tensor in found]; found.close(); "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_where_h5py_is_missing_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = legacy(tmp_path / "a.h5", {"x": {"w": np.ones(2)}})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConversionError, match="python -m pip install h5py"):
        read(path)
