"""TensorFlow checkpoints are read as TensorFlow reads them, and damaged ones are refused."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from safetensors_core.convert import ForeignCheckpoint
from safetensors_core.errors import (
    ConversionError,
    SafetensorError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)
from safetensors_tensorflow import _plugin
from safetensors_tensorflow.checkpoints.crc32c import crc32c

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def read(path: Path | str, optimizer: bool = False) -> ForeignCheckpoint:
    found = _plugin.safetensors_read_checkpoint(path, optimizer)
    assert found is not None
    return found


def values(found: ForeignCheckpoint) -> dict[str, Any]:
    """All tensors, read in both ways, which must agree."""
    arrays = {}
    for name, tensor in found:
        arrays[name] = tensor.read()
        assert arrays[name].shape == tensor.spec.shape
        assert arrays[name].nbytes == tensor.spec.nbytes
        if tensor.chunks is not None:
            assert b"".join(tensor.chunks()) == arrays[name].tobytes()
    return arrays


def same(first: Any, second: Any) -> bool:
    first, second = np.asarray(first), np.asarray(second)
    return (first.dtype, first.shape, first.tobytes()) == (
        second.dtype,
        second.shape,
        second.tobytes(),
    )


def write(prefix: Path, tensors: dict[str, Any], slices: list[str] | None = None) -> Path:
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=slices or [""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return prefix


def trained() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="low", dtype="bfloat16")], name="inner"
    )
    image = keras.Input((6, 6, 3))
    hidden = keras.layers.Conv2D(4, 3, name="conv")(image)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Model(image, inner(shared(shared(hidden))), name="net")
    model.compile("adam", "mse")
    model.fit(np.ones((4, 6, 6, 3), np.float32), np.ones((4, 4), np.float32), verbose=0)
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return trained()


def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dtypes = [np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.float16, np.int32, np.uint32]
    dtypes += [np.float32, np.float64, np.int64, np.uint64, np.complex64, ml_dtypes.bfloat16]
    dtypes += [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
    saved = {
        np.dtype(dtype).name: tf.constant(
            rng.integers(0, 2, 77 * np.dtype(dtype).itemsize, np.uint8).view(dtype).reshape(7, 11)
        )
        for dtype in dtypes
    }
    saved |= {"scalar": tf.constant(1.5), "empty": tf.zeros((0, 3)), "large": tf.ones((3000, 2000))}
    prefix = write(tmp_path / "c", saved)
    found = values(read(prefix))
    theirs = tf.train.load_checkpoint(str(prefix))
    assert sorted(found) == sorted(saved)
    for name, array in found.items():
        assert same(array, theirs.get_tensor(name)), name


def test_a_model_has_the_names_of_its_variables(model: keras.Model, tmp_path: Path) -> None:
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    found = read(path)
    arrays = values(found)
    assert sorted(arrays) == sorted(variable.path for variable in model.weights)
    for variable in model.weights:
        assert same(arrays[variable.path], variable.value.numpy())
    assert dict(found.metadata) == {"save_counter": "1"}
    assert found.framework == "numpy"
    assert found.format == "tf"


def test_weights_stored_below_their_optimizer_are_kept(model: keras.Model, tmp_path: Path) -> None:
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "c"))
    keys = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    assert f"optimizer/_trainable_variables/0{VALUE}" in keys
    found = read(path)
    arrays = values(found)
    assert sorted(arrays) == sorted(variable.path for variable in model.weights)
    for variable in model.weights:
        assert same(arrays[variable.path], variable.value.numpy())
    assert found.left_out["optimizer/_iterations"] == "state of an optimizer"


def test_the_state_of_the_optimizer_is_there_when_asked_for(
    model: keras.Model, tmp_path: Path
) -> None:
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "c"))
    arrays = values(read(path, optimizer=True))
    assert len(arrays) == len(model.weights) + len(model.optimizer.variables)
    assert int(arrays["optimizer/_iterations"]) == 1


def test_variables_without_names_are_called_after_the_way_to_them(tmp_path: Path) -> None:
    layers = [tf.Module(), tf.Module()]
    for layer in layers:
        layer.w = tf.Variable([1.0, 2.0])
    saved = tf.train.Checkpoint(layers=layers, bias=tf.Variable(3))
    arrays = values(read(saved.write(str(tmp_path / "c"))))
    assert sorted(arrays) == ["bias", "layers/0/w", "layers/1/w"]


@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001"])
def test_prefix_index_and_data_name_the_same_checkpoint(tmp_path: Path, suffix: str) -> None:
    prefix = write(tmp_path / "c", {"w": tf.ones(3)})
    assert list(read(f"{prefix}{suffix}").tensors) == ["w"]


@pytest.mark.parametrize("absolute", [False, True])
def test_a_folder_stands_for_its_newest_checkpoint(tmp_path: Path, absolute: bool) -> None:
    folder = tmp_path / "run"
    variable = tf.Variable(0)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(w=variable), str(folder), 5)
    for step in (1, 2):
        variable.assign(step)
        manager.save()
    if absolute:
        state = folder / "checkpoint"
        state.write_text(state.read_text().replace('"ckpt-', f'"{folder}/ckpt-'))
    folder = folder.rename(tmp_path / "elsewhere")
    assert int(values(read(folder))["w"]) == 2


def test_a_folder_must_not_name_a_checkpoint_outside(tmp_path: Path) -> None:
    write(tmp_path / "secret", {"w": tf.ones(3)})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "../secret"\n')
    with pytest.raises(UnsafeCheckpointError, match=r"'\.\./secret', which leaves its folder"):
        read(tmp_path / "run")


def test_the_variables_of_a_saved_model_are_read(tmp_path: Path) -> None:
    module = tf.Module()
    module.w = tf.Variable(tf.range(6.0))
    tf.saved_model.save(module, str(tmp_path / "saved"))
    for path in (tmp_path / "saved", tmp_path / "saved" / "variables" / "variables"):
        assert same(values(read(path))["w"], np.arange(6, dtype=np.float32))


def test_variables_in_parts_are_put_together(tmp_path: Path) -> None:
    whole = np.arange(20000 * 3, dtype=np.float32).reshape(20000, 3)
    parts = [whole[:70], whole[70:8300], whole[8300:]]
    places = ["20000 3 0,70:-", "20000 3 70,8230:-", "20000 3 8300,11700:0,3", ""]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "c"),
        tensor_names=["w/\xe4", "w/\xe4", "w/\xe4", "b"],
        shape_and_slices=places,
        tensors=[*parts, np.ones(2, np.float32)],
    )
    arrays = values(read(tmp_path / "c"))
    assert list(arrays) == ["b", "w/\xe4"]
    assert same(arrays["w/\xe4"], whole)


def test_parts_that_overlap_and_leave_a_gap_are_refused(tmp_path: Path) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "c"),
        tensor_names=["w", "w"],
        shape_and_slices=["4 3 0,2:-", "4 3 1,2:-"],
        tensors=[np.ones((2, 3), np.float32)] * 2,
    )
    with pytest.raises(ConversionError, match="'w': its parts do not make it up"):
        read(tmp_path / "c")


def test_more_dimensions_than_an_array_can_have_are_refused(tmp_path: Path) -> None:
    prefix = write(tmp_path / "c", {"w": tf.reshape(tf.ones(1), [1] * 40)})
    with pytest.raises(ConversionError, match="a tensor of it has the shape"):
        read(prefix)


def test_slots_of_tensorflow_1_are_left_out(tmp_path: Path) -> None:
    weight = tf.ones((2, 2))
    slots = {"d/kernel/Adam": weight, "d/kernel/adam_m": weight, "d/kernel_slot_vc": tf.ones(2)}
    others = {"beta1_power": tf.constant(0.9), "global_step": tf.constant(7, tf.int64)}
    kept = {"d/kernel": weight, "d/kernel/ExponentialMovingAverage": weight, "d/kernel_2": weight}
    prefix = write(tmp_path / "c", {**slots, **others, **kept})
    found = read(prefix)
    assert sorted(found.tensors) == sorted(kept)
    assert dict(found.metadata) == {"global_step": "7"}
    assert sorted(read(prefix, optimizer=True).tensors) == sorted(
        {**kept, **slots, "beta1_power": 0}
    )


def test_a_weight_below_another_one_is_no_slot(tmp_path: Path) -> None:
    weights = {"d": tf.ones((2, 3)), "d/bias": tf.ones(3)}
    assert list(read(write(tmp_path / "c", weights)).tensors) == ["d", "d/bias"]


def test_texts_are_left_out(tmp_path: Path) -> None:
    found = read(write(tmp_path / "c", {"w": tf.ones(2), "vocabulary": tf.constant(["a", "b"])}))
    assert list(found.tensors) == ["w"]
    assert found.left_out == {"vocabulary": "text, no numbers"}


@pytest.mark.parametrize("dtype", [tf.qint8, tf.complex128])
def test_a_dtype_that_the_format_lacks_is_refused_by_name(tmp_path: Path, dtype: Any) -> None:
    tensor = tf.zeros(2, tf.complex128)
    if dtype == tf.qint8:
        tensor = tf.bitcast(tf.zeros(2, tf.int8), tf.qint8)
    prefix = write(tmp_path / "c", {"layer/w": tensor, "layer/b": tf.ones(2)})
    found = read(prefix)
    error = found.refused["layer/w"]
    assert isinstance(error, UnsupportedDtypeError)
    assert (error.tensor, error.dtype) == ("layer/w", dtype.name)
    assert str(error).startswith(str(error.location))
    assert list(found.tensors) == ["layer/b"]
    assert found.tensors["layer/b"].read().tolist() == [1, 1]


def test_a_flipped_bit_in_the_data_is_found(tmp_path: Path) -> None:
    prefix = write(tmp_path / "c", {"w": tf.range(1000)})
    data = tmp_path / "c.data-00000-of-00001"
    octets = bytearray(data.read_bytes())
    octets[777] ^= 4
    data.write_bytes(octets)
    tensor = read(prefix).tensors["w"]
    assert tensor.chunks is not None
    with pytest.raises(ConversionError, match="'w' does not match its checksum"):
        tensor.read()
    with pytest.raises(ConversionError, match="'w' does not match its checksum"):
        list(tensor.chunks())


def test_a_file_of_the_data_that_is_missing_is_named(tmp_path: Path) -> None:
    prefix = write(tmp_path / "c", {"w": tf.range(1000)})
    (tmp_path / "c.data-00000-of-00001").unlink()
    with pytest.raises(ConversionError, match=r"its file 'c\.data-00000-of-00001' is missing"):
        read(prefix)


def test_data_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    prefix = write(tmp_path / "c", {"w": tf.range(1000)})
    data = tmp_path / "c.data-00000-of-00001"
    for length in (0, 1, 3999):
        os.truncate(data, length)
        with pytest.raises(ConversionError, match=r"files hold|cut off"):
            read(prefix)


def test_an_index_that_is_cut_off_is_refused_at_every_length(tmp_path: Path) -> None:
    prefix = write(tmp_path / "c", {"w": tf.range(10), "v": tf.ones((3, 4))})
    index = tmp_path / "c.index"
    whole = index.read_bytes()
    for length in range(len(whole)):
        index.write_bytes(whole[:length])
        with pytest.raises(ConversionError, match="its index cannot be read"):
            read(prefix)


def test_a_damaged_index_gives_an_error_of_ours(model: keras.Model, tmp_path: Path) -> None:
    tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    index = tmp_path / "c-1.index"
    whole = index.read_bytes()
    rng = random.Random(1)
    places = [*range(len(whole) - 48, len(whole)), *rng.sample(range(len(whole)), 200)]
    messages = []
    for place in places:
        octets = bytearray(whole)
        octets[place] ^= 1 << rng.randrange(8)
        index.write_bytes(octets)
        try:
            values(read(tmp_path / "c-1"))
        except SafetensorError as error:
            messages.append(str(error))
    # What fills up the footer means nothing.
    assert len(messages) > len(places) - 48
    assert not [message for message in messages if "\n" in message]


def test_a_checkpoint_is_read_without_tensorflow(tmp_path: Path) -> None:
    prefix = write(tmp_path / "c", {"w": tf.ones(3)})
    program = (
        "import sys; from safetensors_tensorflow import _plugin; "
        f"found = _plugin.safetensors_read_checkpoint({str(prefix)!r}, False); "
        "found.tensors['w'].read(); assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_no_checkpoint_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "a.index").write_bytes(b"no table")
    (tmp_path / "empty.index").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "checkpoint").write_bytes(b"\x80\x04 something else")
    for name in ("a", "a.index", "empty.index", "folder", "missing", "."):
        assert _plugin.safetensors_read_checkpoint(tmp_path / name, False) is None, name


def test_a_renamed_checkpoint_whose_data_kept_its_name_is_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "c", {"w": tf.ones(3)})
    shutil.copy(tmp_path / "c.index", tmp_path / "other.index")
    with pytest.raises(ConversionError, match=r"'other\.data-00000-of-00001' is missing"):
        read(tmp_path / "other.index")


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 255, 256, 257, 262143, 262144, 300001])
def test_the_checksum_is_that_of_its_definition(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    expected = 0xFFFFFFFF
    for octet in data:
        expected ^= octet
        for _ in range(8):
            expected = expected >> 1 ^ (0x82F63B78 if expected & 1 else 0)
    assert crc32c(data) == expected ^ 0xFFFFFFFF
    assert crc32c(data[length // 3 :], crc32c(data[: length // 3])) == expected ^ 0xFFFFFFFF
