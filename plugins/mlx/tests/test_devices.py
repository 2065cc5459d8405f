"""Devices as MLX spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from safetensors_core import ByteSource, InvalidInputError, get_framework, load_file, safe_open
from safetensors_mlx import load, save, save_file
from safetensors_mlx.devices import find_device

GPU = mx.is_available(mx.gpu)
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU that MLX can use")
needs_no_gpu = pytest.mark.skipif(GPU, reason="MLX can use a GPU here")

CPUS = ["cpu", mx.cpu, mx.Device(mx.cpu, 0), None]
GPUS = ["gpu", mx.gpu, mx.Device(mx.gpu, 0)]
NO_DEVICES = ["cuda", "cpu:0", "mps", "", 0, 1.5, True, "CPU", object(), mx.float32]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two arrays."""
    arrays = {"w": mx.arange(12.0).reshape(3, 4), "b": mx.arange(3, dtype=mx.int8)}
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


class Untouchable(ByteSource):
    """A source that must not be read."""

    location, size = "acme://untouchable", 0

    def read_into(self, offset: int, view: memoryview) -> None:
        raise AssertionError("it was read")


def assert_loads(path: Path, device: Any, backend: Any) -> None:
    with safe_open(path, "mlx", device, backend=backend) as file:
        arrays = [
            file.get_tensor("w"),
            file.get_slice("w")[:],
            load(path.read_bytes(), device)["w"],
            load_file(path, "mlx", device)["w"],
        ]
    for array in arrays:
        assert mx.array_equal(array, mx.arange(12.0).reshape(3, 4)).item()


@pytest.mark.parametrize("device", CPUS, ids=str)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_the_cpu_has_several_names(path: Path, device: Any, backend: Any) -> None:
    assert_loads(path, device, backend)


@needs_gpu
@pytest.mark.parametrize("device", GPUS, ids=str)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_the_gpu_has_several_names(path: Path, device: Any, backend: Any) -> None:
    assert_loads(path, device, backend)
    loaded = load_file(path, "mlx", device)
    doubled = mx.add(loaded["w"], loaded["w"], stream=mx.gpu)
    assert load(save({"w": doubled}))["w"].tolist() == (mx.arange(12.0) * 2).reshape(3, 4).tolist()


@needs_no_gpu
@pytest.mark.parametrize("device", [*GPUS, mx.Device(mx.cpu, 3)], ids=str)
def test_a_device_that_is_not_there_is_refused(path: Path, device: Any) -> None:
    message = "cannot be used: MLX finds no Device"
    with pytest.raises(InvalidInputError, match=message):
        load(path.read_bytes(), device)
    with pytest.raises(InvalidInputError, match=message):
        load_file(path, "mlx", device)
    with safe_open(path, "mlx", device) as file, pytest.raises(InvalidInputError, match=message):
        file.get_slice("w")[0]


@pytest.mark.parametrize("device", NO_DEVICES, ids=str)
def test_what_is_no_device_of_mlx_is_refused_with_those_it_has(path: Path, device: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"MLX has no device .*'cpu', 'gpu'"):
        load(path.read_bytes(), device)
    with safe_open(path, "mlx", device) as file, pytest.raises(InvalidInputError, match="'gpu'"):
        file.get_slice("w")[0]


def test_a_device_is_refused_before_anything_is_read(path: Path) -> None:
    source = Untouchable()
    with safe_open(path, "mlx") as file:
        source.header = file.header
    with pytest.raises(InvalidInputError, match="no device 'tpu'"):
        get_framework("mlx").load(source, source.header.tensors, "tpu")


def test_no_device_means_the_default_one() -> None:
    assert find_device(None) == mx.default_device()


def test_a_device_that_was_found_is_found_again() -> None:
    assert find_device(find_device("cpu")) == mx.Device(mx.cpu, 0)
