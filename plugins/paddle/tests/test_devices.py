"""Devices as Paddle spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from safetensors_core import InvalidInputError, load_file, safe_open
from safetensors_paddle import load, save, save_file
from safetensors_paddle.devices import find_place

HAS_GPU = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU and a Paddle that can use it")
needs_no_gpu = pytest.mark.skipif(HAS_GPU, reason="a GPU is there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with tensors of a type that DLPack knows and of one that it does not."""
    tensors = {
        "w": paddle.arange(12, dtype="float32").reshape([3, 4]),
        "h": paddle.arange(3).astype("bfloat16"),
        "none": paddle.zeros([0, 2]),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("device", ["cpu", "CPU", paddle.CPUPlace(), paddle.ones([1]).place])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_the_host_has_several_names(path: Path, device: Any, backend: Any) -> None:
    with safe_open(path, "paddle", device, backend=backend) as file:
        tensors = [
            file.get_tensor("w"),
            file.get_slice("w")[:],
            load(path.read_bytes(), device)["w"],
        ]
    for tensor in tensors:
        assert tensor.place.is_cpu_place()
        assert np.array_equal(tensor.numpy(), np.arange(12.0).reshape(3, 4))


def test_none_is_the_device_that_paddle_uses(path: Path) -> None:
    expected = paddle.ones([1]).place
    for tensor in load_file(path, "paddle", None).values():
        assert str(tensor.place) == str(expected)


@pytest.mark.parametrize(
    "device",
    ["nonsense", "gpu:x", "gpu:99", "", 1.5, 0, object(), b"cpu", paddle.base.core.Place()],
)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_device_that_does_not_exist_is_refused(path: Path, device: Any, backend: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"device .* cannot be used: ."):
        load_file(path, "paddle", device, backend=backend)
    with pytest.raises(InvalidInputError, match="device"):
        load(path.read_bytes(), device)
    with (
        safe_open(path, "paddle", device, backend=backend) as file,
        pytest.raises(InvalidInputError, match="device"),
    ):
        file.get_slice("w")[0]


@needs_no_gpu
@pytest.mark.parametrize("device", ["gpu", "gpu:0", "cuda", "cuda:0", "xpu:0"])
def test_a_device_that_paddle_was_built_without_is_refused(path: Path, device: str) -> None:
    with pytest.raises(
        InvalidInputError, match=f"device '{device}' cannot be used: .*not compiled"
    ):
        load_file(path, "paddle", device)


def test_a_device_is_refused_before_anything_is_read() -> None:
    class Unread:
        def fetch(self, *args: object) -> None:
            raise AssertionError("read")

    from safetensors_paddle.framework import PaddleFramework

    unread: Any = Unread()
    with pytest.raises(InvalidInputError, match="device 'nonsense'"):
        PaddleFramework().load(unread, {}, "nonsense")


def test_finding_a_device_changes_no_setting() -> None:
    before = paddle.get_device()
    find_place(None)
    find_place("cpu")
    assert paddle.get_device() == before


@needs_gpu
@pytest.mark.parametrize("device", ["gpu", "gpu:0", "cuda:0", None])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_are_loaded_to_a_gpu_and_saved_from_it(
    path: Path, device: Any, backend: Any
) -> None:
    loaded = load_file(path, "paddle", device, backend=backend)
    assert all(tensor.place.is_gpu_place() for tensor in loaded.values())
    assert save(loaded) == path.read_bytes()
    assert save({"w": loaded["w"].T}) == save({"w": loaded["w"].cpu().T})
    with safe_open(path, "paddle", paddle.CUDAPlace(0), backend=backend) as file:
        assert file.get_slice("w")[1:, ::2].place.is_gpu_place()
