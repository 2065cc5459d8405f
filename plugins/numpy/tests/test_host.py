"""A framework that is written as a way to and from arrays has everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from safetensors_core import (
    Dtype,
    InvalidInputError,
    TensorSpec,
    UnsupportedDtypeError,
    exchange,
    get_framework,
    load_file,
    plugins,
    register_framework,
    safe_open,
    save_file,
)
from safetensors_numpy.host import HostFramework


class Boxed:
    """A tensor on a device: an array in a box."""

    def __init__(self, array: npt.NDArray[Any], device: str) -> None:
        self.array = array
        self.device = device


class BoxFramework(HostFramework):
    name: ClassVar[str] = "box"
    native_package: ClassVar[str] = "box"
    dtypes: Mapping[Dtype, Any] = {
        dtype: native
        for dtype, native in get_framework("numpy").dtypes.items()
        if dtype in (Dtype.F4, Dtype.BF16, Dtype.F32)
    }

    def is_tensor(self, obj: object) -> bool:
        return isinstance(obj, Boxed)

    def describe(self, tensor: Boxed) -> TensorSpec:
        return get_framework("numpy").describe(tensor.array)

    def find_device(self, device: Any) -> str:
        if device not in ("cpu", "box:0"):
            raise InvalidInputError(f"there is no device {device!r}")
        return str(device)

    def to_array(self, tensor: Boxed) -> npt.NDArray[Any]:
        return tensor.array

    def from_array(self, array: npt.NDArray[Any], device: str) -> Boxed:
        return Boxed(array, device)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_frameworks", dict(plugins._frameworks))
    register_framework(BoxFramework())


@pytest.mark.parametrize("dtype", [ml_dtypes.float4_e2m1fn, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_come_back_from_a_file(tmp_path: Path, dtype: Any, backend: Any) -> None:
    path = tmp_path / "model.safetensors"
    array = np.arange(8).reshape(4, 2).T.astype(dtype)
    save_file({"w": Boxed(array, "cpu"), "e": Boxed(array[:0], "cpu")}, path)
    loaded = load_file(path, "box", "box:0", backend=backend)
    assert {tensor.device for tensor in loaded.values()} == {"box:0"}
    assert loaded["w"].array.dtype == dtype
    assert np.array_equal(loaded["w"].array, array)
    assert loaded["e"].array.shape == (0, 4)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_slices_are_numpy_s(tmp_path: Path, backend: Any) -> None:
    path = tmp_path / "model.safetensors"
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    save_file({"w": array}, path)
    with safe_open(path, "box", "box:0", backend=backend) as file:
        part = file.get_slice("w")[::-1, [0, 3]]
    assert part.device == "box:0"
    assert np.array_equal(part.array, array[::-1, [0, 3]])


def test_a_device_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(1, np.float32)}, path)
    with safe_open(path, "box", "moon", backend="pread") as file:
        file.locate("w")[0].close()  # a read would fail otherwise
        with pytest.raises(InvalidInputError, match="no device 'moon'"):
            file.get_tensor("w")


def test_a_dtype_that_it_does_not_declare_is_refused() -> None:
    with pytest.raises(UnsupportedDtypeError, match="tensor 'w': dtype I8"):
        exchange({"w": np.zeros(1, np.int8)}, "box")


def test_arrays_are_aliased_both_ways() -> None:
    array = np.arange(3, dtype=np.float32)
    boxed = exchange({"w": array}, "box")["w"]
    assert np.shares_memory(boxed.array, array)
    assert np.shares_memory(exchange({"w": boxed}, "numpy")["w"], array)
