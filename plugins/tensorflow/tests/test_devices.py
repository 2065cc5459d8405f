"""Devices as TensorFlow spells them, and what a program makes of TensorFlow as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from safetensors_core import ByteSource, InvalidInputError, get_framework, load_file, safe_open
from safetensors_tensorflow import load, save, save_file
from safetensors_tensorflow.framework import TensorflowFramework

GPUS = tf.config.list_physical_devices("GPU")
needs_gpu = pytest.mark.skipif(not GPUS, reason="needs a GPU that TensorFlow can use")
needs_no_gpu = pytest.mark.skipif(bool(GPUS), reason="a GPU is there")

# Two devices have to be asked for before TensorFlow is used, so another process has them.
TWO_DEVICES = """
import json, os, sys
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor
from safetensors_core import InvalidInputError, safe_open
from safetensors_core.sources import FileSource
from safetensors_core.transfer import windowed
from safetensors_tensorflow import load, load_file, save, save_file

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from safetensors_tensorflow.framework import TensorflowFramework  # uses TensorFlow
second = tf.config.list_logical_devices("CPU")[1]
path = sys.argv[1]
floats, integers = tf.range(12.0), tf.range(5)
save_file({"f": floats, "i": integers, "b": tf.cast(floats, tf.bfloat16)}, path)
facts = {}

def device_and_values(tensor):
    return [tensor.device, tf.cast(tensor, tf.int32).numpy().tolist()]

for key, device in {
    "name": "cpu:1", "slash": "/CPU:1", "full": "/device:CPU:1", "object": second,
    "task": "/job:localhost/replica:0/task:0/device:CPU:1",
}.items():
    facts[key] = {n: device_and_values(t) for n, t in load_file(path, device).items()}
with safe_open(path, "tf", "cpu:1") as file:
    facts["slice"] = {"f": device_and_values(file.get_slice("f")[::-2])}
facts["first"] = {"f": device_and_values(load_file(path, "cpu")["f"])}
with tf.device("/CPU:1"):
    facts["default"] = {"f": device_and_values(load_file(path, None)["f"])}
    facts["first, by name"] = {"f": device_and_values(load_file(path)["f"])}

@tf.function
def traced():
    loaded = load_file(path, "cpu:1")["f"]
    facts["traced"] = {"f": [loaded.device, loaded.numpy().tolist()]}
    return loaded + 1.0

facts["traced and computed"] = traced().numpy().tolist()
again = load(save({"f": load_file(path, "cpu:1")["f"]}))["f"]
facts["saved from the second"] = again.numpy().tolist()

strategy = tf.distribute.MirroredStrategy(["/CPU:0", "/CPU:1"])
with strategy.scope():
    mirrored = tf.Variable([1.0, 2.0])
    summed = tf.Variable(
        [1.0, 2.0],
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
facts["distributed"] = [
    tensor.numpy().tolist() for tensor in load(save({"m": mirrored, "s": summed})).values()
]
mesh = dtensor.create_mesh([("x", 2)], devices=["CPU:0", "CPU:1"])
whole = dtensor.copy_to_mesh(tf.ones(3), dtensor.Layout.replicated(mesh, 1))
facts["replicated"] = load(save({"d": whole}))["d"].numpy().tolist()
parts = dtensor.call_with_layout(tf.zeros, dtensor.Layout(["x"], mesh), shape=(4,))
try:
    save({"d": parts})
except InvalidInputError as error:
    facts["sharded"] = str(error)

many = {f"{i:02}": tf.fill([100 + i], float(i)) for i in range(20)}
many |= {"bf16": tf.cast(floats, tf.bfloat16), "none": tf.zeros([0, 2]), "scalar": tf.constant(7)}
save_file(many, path)
windowed.WINDOW = 1000
events = []
fetch = FileSource.fetch

def noted_fetch(source, infos, alignment=1):
    events.append(f"read {min(infos)}")
    return fetch(source, infos, alignment)

FileSource.fetch = noted_fetch
made = TensorflowFramework.from_buffers

def noted_from_buffers(self, buffer, infos, device):
    events.append(f"copy {min(infos)}")
    return made(self, buffer, infos, device)

TensorflowFramework.from_buffers = noted_from_buffers
for backend in ("auto", "mmap", "pread"):
    events.clear()
    loaded = load_file(path, "cpu:1", backend=backend)
    facts[f"windows, {backend}"] = {
        "reads": sum(event.startswith("read") for event in events),
        "copies": [event[5:] for event in events if event.startswith("copy")],
        "events": list(events),
        "devices": sorted({tensor.device[-5:] for tensor in loaded.values()}),
        "same": save(loaded) == open(path, "rb").read(),
        "in the order of the file": list(loaded) == list(load_file(path)),
    }
json.dump(facts, sys.stdout)
"""

GRAPH_MODE = """
import sys
import tensorflow as tf
from safetensors_core import InvalidInputError
from safetensors_tensorflow import load
tf.compat.v1.disable_eager_execution()
try:
    load(open(sys.argv[1], "rb").read())
except InvalidInputError as error:
    print(error)
"""


def run(program: str, path: Path) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a process found that has two devices."""
    return json.loads(run(TWO_DEVICES, tmp_path_factory.mktemp("two") / "model.safetensors"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two tensors."""
    tensors = {"w": tf.reshape(tf.range(12.0), (3, 4)), "b": tf.range(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("spelling", ["name", "slash", "full", "object", "task"])
def test_tensors_live_on_the_device_that_was_asked_for(two: Any, spelling: str) -> None:
    device = "/job:localhost/replica:0/task:0/device:CPU:1"
    assert two[spelling] == {
        "f": [device, list(range(12))],
        "b": [device, list(range(12))],
        "i": [device, list(range(5))],
    }


def test_slices_live_on_the_device_that_was_asked_for(two: Any) -> None:
    device = "/job:localhost/replica:0/task:0/device:CPU:1"
    assert two["slice"] == {"f": [device, [11, 9, 7, 5, 3, 1]]}


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_tensors_of_another_device_come_in_windows_bit_for_bit(two: Any, backend: str) -> None:
    found = two[f"windows, {backend}"]
    assert found["devices"] == ["CPU:1"]
    assert found["same"]
    assert found["in the order of the file"]
    assert found["reads"] == len(found["copies"]) == len(set(found["copies"])) > 5
    # One is read ahead of what is copied, not all.
    [first, *_, last] = found["copies"]
    assert found["events"].index(f"copy {first}") < found["events"].index(f"read {last}")


def test_files_for_other_devices_are_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    framework = get_framework("tf")
    assert framework.prefers_map("cpu")
    assert framework.prefers_map("nonsense")
    monkeypatch.setattr(TensorflowFramework, "find_device", lambda *_: "/device:GPU:0")
    assert not framework.prefers_map("gpu")


def test_the_default_device_is_the_first_cpu_and_none_is_tensorflow_s_own(two: Any) -> None:
    first = "/job:localhost/replica:0/task:0/device:CPU:0"
    second = "/job:localhost/replica:0/task:0/device:CPU:1"
    assert two["first"]["f"][0] == two["first, by name"]["f"][0] == first
    assert two["default"]["f"] == [second, list(range(12))]


def test_a_function_that_is_being_traced_loads_tensors_with_values(two: Any) -> None:
    assert two["traced"]["f"][0].endswith("CPU:1")
    assert two["traced"]["f"][1] == list(range(12))
    assert two["traced and computed"] == list(range(1, 13))


def test_tensors_of_another_device_are_saved(two: Any) -> None:
    assert two["saved from the second"] == list(range(12))


def test_distributed_variables_are_saved_as_the_value_that_a_reader_sees(two: Any) -> None:
    assert two["distributed"] == [[1, 2], [2, 4]]


def test_a_dtensor_is_saved_if_every_device_has_all_of_it(two: Any) -> None:
    assert two["replicated"] == [1, 1, 1]
    assert two["sharded"].startswith("tensor 'd': a DTensor in several parts cannot be saved")
    assert "relayout" in two["sharded"]


def test_a_program_without_eager_execution_is_told_so(path: Path) -> None:
    assert run(GRAPH_MODE, path).startswith("eager execution is disabled")


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        "CPU",
        "cpu:0",
        "/CPU:0",
        "/device:CPU:0",
        "/job:localhost/replica:0/task:0/device:CPU:0",
        "/job:localhost/task:0/cpu:0",
        pytest.param(None, marks=needs_no_gpu),
    ],
)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_the_host_has_several_names(path: Path, device: Any, backend: Any) -> None:
    with safe_open(path, "tf", device, backend=backend) as file:
        tensors = [
            file.get_tensor("w"),
            file.get_slice("w")[:],
            load(path.read_bytes(), device)["w"],
        ]
    for tensor in tensors:
        assert tensor.device == "/job:localhost/replica:0/task:0/device:CPU:0"
        assert tensor.numpy().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_logical_device_is_a_device(path: Path) -> None:
    [device] = tf.config.list_logical_devices("CPU")
    assert load_file(path, "tf", device)["b"].numpy().tolist() == [0, 1, 2]


class Unreadable(ByteSource):
    """A source from which nothing can be read."""

    location = "unreadable"
    size = 0

    def read_into(self, offset: int, view: memoryview) -> None:
        raise OSError("it was read")


@pytest.mark.parametrize(
    "device",
    [
        "cpu:7",
        "/GPU:77",
        "cuda:77",
        "gpu:77",
        "nonsense",
        "",
        "/",
        "cpu:x",
        "/job:elsewhere/task:0/device:CPU:0",
        "/task:3/cpu:0",
        0,
        ["cpu"],
        b"cpu",
        tf.config.PhysicalDevice("/physical_device:CPU:0", "CPU"),
    ],
)
def test_a_device_that_does_not_exist_is_refused_before_anything_is_read(
    path: Path, device: Any
) -> None:
    with pytest.raises(InvalidInputError):
        get_framework("tf").load(Unreadable(), {}, device)
    with pytest.raises(InvalidInputError):
        load(path.read_bytes(), device)
    with safe_open(path, "tf", device) as file, pytest.raises(InvalidInputError):
        file.get_slice("w")[0]


def test_the_error_says_which_devices_there_are(path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"'cuda:77' does not exist.*'/device:CPU:0'"):
        load_file(path, "tf", "cuda:77")


@needs_gpu
@pytest.mark.parametrize("device", ["gpu", "/GPU:0", "cuda", "cuda:0", None])
def test_tensors_on_a_gpu_come_and_go(path: Path, device: Any) -> None:
    loaded = load_file(path, "tf", device)
    assert loaded["w"].device.endswith("GPU:0")
    assert save(loaded) == path.read_bytes()
