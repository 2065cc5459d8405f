"""Loading to devices other than the CPU, for which the CPU stands in: window by window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from safetensors_core import load_file as load_with
from safetensors_core.transfer import windowed
from safetensors_paddle import framework, load_file, save_file
from safetensors_paddle.framework import PaddleFramework


class OtherPlace:
    """A place that is neither the CPU nor a GPU; what is copied there stays where it is."""

    def is_cpu_place(self) -> bool:
        return False

    def is_gpu_place(self) -> bool:
        return False


TENSORS = {
    "a": paddle.arange(3000, dtype="float32").reshape([30, 100]),
    "b": paddle.arange(7).astype("int8"),
    "c": paddle.arange(300).astype("bfloat16"),
    "none": paddle.zeros([0, 2]),
    "scalar": paddle.to_tensor(7.0),
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of several windows, which goes to a device that the CPU stands in for."""
    save_file(TENSORS, tmp_path / "a.safetensors")
    monkeypatch.setattr(windowed, "WINDOW", 1000)
    monkeypatch.setattr(framework, "find_place", lambda _: OtherPlace())
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_tensors_come_in_windows_bit_for_bit(
    path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    copied: list[list[str]] = []

    class Framework(PaddleFramework):
        def from_buffers(
            self, buffer: memoryview, infos: Mapping[str, Any], device: Any
        ) -> dict[str, Any]:
            assert not device.is_cpu_place()
            copied.append(list(infos))
            monkeypatch.setattr(framework, "find_place", lambda _: paddle.CPUPlace())
            made = super().from_buffers(buffer, infos, None)
            return {name: tensor.clone() for name, tensor in made.items()}

    loaded = load_with(path, Framework(), "gpu", backend=backend)
    assert sorted(loaded) == sorted(TENSORS)
    assert sorted(name for names in copied for name in names) == sorted(TENSORS)
    assert len(copied) > 1
    for name, tensor in loaded.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert np.array_equal(
            tensor.astype("float32").numpy(), TENSORS[name].astype("float32").numpy()
        )


def test_files_for_other_devices_are_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PaddleFramework().prefers_map("cpu")
    assert PaddleFramework().prefers_map("nonsense")
    monkeypatch.setattr(framework, "find_place", lambda _: OtherPlace())
    assert not PaddleFramework().prefers_map("gpu:1")


def test_the_cpu_takes_its_tensors_from_the_map(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    loaded = load_file(tmp_path / "a.safetensors", backend="mmap")
    address = {name: tensor.data_ptr() for name, tensor in loaded.items() if tensor.size}
    assert (
        max(address.values()) - min(address.values()) < (tmp_path / "a.safetensors").stat().st_size
    )
