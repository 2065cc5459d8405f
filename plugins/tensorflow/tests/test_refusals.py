"""What TensorFlow has and the format cannot hold is refused, and the error says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from safetensors_core import InvalidInputError, UnsupportedDtypeError, get_framework
from safetensors_tensorflow import load, save, save_file

experimental = tf.dtypes.experimental


def cast(dtype: Any) -> Any:
    return lambda: tf.cast([1, 0], dtype)


@pytest.mark.parametrize(
    ("make", "dtype", "remedy"),
    [
        (lambda: tf.constant(["text"]), "string", "decode_raw"),
        (lambda: tf.zeros(2, tf.complex128), "complex128", "tf.math.real"),
        (lambda: tf.bitcast(tf.constant([1, 2], tf.int8), tf.qint8), "qint8", "tf.bitcast"),
        (lambda: tf.bitcast(tf.constant([1, 2], tf.uint8), tf.quint8), "quint8", "tf.bitcast"),
        (lambda: tf.bitcast(tf.constant([1, 2]), tf.qint32), "qint32", "tf.bitcast"),
        (cast(experimental.int4), "int4", "tf.cast"),
        (cast(experimental.uint4), "uint4", "tf.cast"),
        (lambda: tf.Variable(0.0).handle, "resource", "what it refers to"),
        (
            lambda: tf.raw_ops.EmptyTensorList(
                element_shape=tf.constant([], tf.int32),
                max_num_elements=1,
                element_dtype=tf.float32,
            ),
            "variant",
            "tensor by tensor",
        ),
    ],
)
def test_dtypes_that_the_format_lacks_are_refused_with_a_remedy(
    make: Any, dtype: str, remedy: str
) -> None:
    with pytest.raises(UnsupportedDtypeError) as caught:
        save({"a": tf.zeros(1), "w": make()})
    assert (caught.value.dtype, caught.value.tensor) == (dtype, "w")
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: tf.ragged.constant([[1], [2, 3]]), "nested_row_splits"),
        (lambda: tf.sparse.from_dense([[0, 1]]), "tf.sparse.to_dense"),
        (lambda: tf.IndexedSlices(tf.zeros((1, 2)), tf.constant([0])), "tf.convert_to_tensor"),
    ],
    ids=["ragged", "sparse", "slices"],
)
def test_tensors_of_several_parts_are_refused_with_a_remedy(make: Any, remedy: str) -> None:
    with pytest.raises(InvalidInputError, match=r"tensor 'w': a tf\.") as caught:
        save({"w": make()})
    assert remedy in str(caught.value)


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": tf.ones(2)}, path)
    before = path.read_bytes()
    with pytest.raises(UnsupportedDtypeError):
        save_file({"w": tf.ones(2), "v": tf.constant("text")}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [lambda x: x, lambda _: tf.Variable(1.0)])
def test_a_traced_function_cannot_save(make: Any) -> None:
    variable = make(None)

    def traced(x: Any) -> Any:
        save({"w": x if variable is None else variable})
        return x

    with pytest.raises(InvalidInputError, match=r"tensor 'w': .*tf\.py_function"):
        tf.function(traced, autograph=False)(tf.ones(2))


def test_a_python_function_in_a_graph_saves() -> None:
    found = []

    def saves(x: Any) -> Any:
        found.append(save({"w": x}))
        return x

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def traced(x: Any) -> Any:
        return tf.py_function(saves, [x], tf.float32)

    traced(tf.ones(2))
    assert load(found[0])["w"].numpy().tolist() == [1, 1]


def test_variables_are_saved_with_the_shape_of_their_value() -> None:
    variable = tf.Variable([1.0], shape=tf.TensorShape(None))
    variable.assign([[1.0, 2.0]])
    assert load(save({"w": variable}))["w"].numpy().tolist() == [[1, 2]]


def test_tensors_that_a_tape_watches_are_saved() -> None:
    variable = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        tensor = variable * 2.0
        saved = save({"t": tensor, "v": variable})
        tape.watch(tensor)
    assert load(saved)["t"].numpy().tolist() == [2, 4]


def test_a_tape_may_run_over_loaded_tensors() -> None:
    weight = load(save({"w": tf.constant([3.0])}, alignment=64))["w"]
    with tf.GradientTape() as tape:
        tape.watch(weight)
        result = weight * weight
    assert tape.gradient(result, weight).numpy().tolist() == [6]


@pytest.mark.parametrize("thing", [3, [1.0], None, np.zeros(1), object(), tf.float32, tf.zeros])
def test_other_things_are_no_tensors_of_tensorflow(thing: object) -> None:
    assert get_framework("tf").is_tensor(thing) is False


def test_shapes_beyond_tensorflow_s_limits_name_the_tensor() -> None:
    shape = [1] * 300
    header = f'{{"w":{{"dtype":"U8","shape":{shape},"data_offsets":[0,1]}}}}'.encode()
    data = len(header).to_bytes(8, "little") + header + b"\0"
    with pytest.raises(InvalidInputError, match="tensor 'w'"):
        load(data)


def test_importing_the_package_imports_no_framework() -> None:
    program = (
        "import sys, safetensors_tensorflow, safetensors_tensorflow._plugin\n"
        "from safetensors_core import list_plugins\n"
        "assert 'tensorflow' in [p.name for p in list_plugins() if p.status == 'ok']\n"
        "found = {'tensorflow', 'keras', 'numpy', 'ml_dtypes'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_tensorflow_the_error_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['tensorflow'] = None\n"
        "from safetensors_core import PluginError\n"
        "from safetensors_tensorflow import load, save\n"
        "try:\n"
        "    load(save({}))\n"
        "except PluginError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot import its framework" in done.stdout
    assert 'pip install "safetensors-core[tensorflow]"' in done.stdout


def test_the_package_has_no_other_names() -> None:
    import safetensors_tensorflow

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = safetensors_tensorflow.nonsense


def test_a_first_use_inside_a_function_leaves_the_plugin_usable(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": tf.constant([1.0, 2.0])}, path)
    program = (
        "import sys, tensorflow as tf, safetensors_tensorflow as st\n"
        "traced = tf.function(lambda: st.load_file(sys.argv[1])['w'])\n"
        "assert traced().numpy().tolist() == [1, 2]\n"
        "assert st.load_file(sys.argv[1])['w'].numpy().tolist() == [1, 2]\n"
        "st.save(st.load_file(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
