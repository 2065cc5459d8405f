"""Whose memory an array borrows, how long it lives, and that the file never changes under it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from safetensors_core import safe_open
from safetensors_numpy import load, load_file, save, save_file

Array = npt.NDArray[Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a large array, whose pages are only read when they are touched."""
    arrays: dict[str, Array] = {
        "a": np.arange(200_000, dtype=np.float32),
        "b": np.arange(5, dtype=np.uint8),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def test_arrays_of_a_mapped_file_lie_in_one_map_as_in_the_file(path: Path) -> None:
    with safe_open(path, "numpy", backend="mmap") as file:
        offsets = {n: info.data_offsets[0] for n, info in file.header.tensors.items()}
        first, again = file.get_tensors(), file.get_tensors()
    assert address(first["b"]) - address(first["a"]) == offsets["b"] - offsets["a"]
    assert np.shares_memory(first["a"], again["a"])


def test_a_slice_of_a_mapped_file_borrows_the_map(path: Path) -> None:
    with safe_open(path, "numpy", backend="mmap") as file:
        whole, part = file.get_tensor("a"), file.get_slice("a")[10:20:2]
    assert np.shares_memory(whole, part)
    assert part.tolist() == [10, 12, 14, 16, 18]


def test_arrays_of_a_file_that_was_read_own_memory_apart_from_each_other(path: Path) -> None:
    with safe_open(path, "numpy", backend="pread") as file:
        first, again = file.get_tensor("a"), file.get_tensor("a")
    assert not np.shares_memory(first, again)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_arrays_are_writable_and_writing_does_not_reach_the_file(path: Path, backend: Any) -> None:
    before = path.read_bytes()
    for array in load_file(path, backend=backend).values():
        array += 1
    assert path.read_bytes() == before
    assert load_file(path, backend=backend)["b"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_arrays_outlive_the_file_object_and_the_file(path: Path, backend: Any) -> None:
    with safe_open(path, "numpy", backend=backend) as file:
        whole = file.get_tensor("a")
        part = file.get_slice("a")[-2:]
    del file
    path.unlink()
    gc.collect()
    assert np.array_equal(whole, np.arange(200_000))
    assert part.tolist() == [199_998, 199_999]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its maps")
def test_the_map_ends_with_the_last_array_over_it(path: Path) -> None:
    def mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    arrays = load_file(path, backend="mmap")
    kept = arrays["b"][1:2]
    del arrays
    gc.collect()
    assert mapped()
    del kept
    gc.collect()
    assert not mapped()


def test_loading_writable_bytes_borrows_them() -> None:
    data = bytearray(save({"w": np.zeros(3, np.uint8)}))
    array = load(data)["w"]
    array[:] = 7
    assert data[-3:] == b"\7\7\7"


def test_loading_read_only_bytes_copies_them() -> None:
    data = save({"w": np.zeros(3, np.uint8)})
    array = load(data)["w"]
    array[:] = 7
    assert data[-3:] == b"\0\0\0"


@pytest.mark.parametrize("fsync", [True, False])
def test_saving_over_the_file_that_the_arrays_are_mapped_from_keeps_both(
    path: Path, fsync: bool
) -> None:
    arrays = load_file(path, backend="mmap")
    arrays["b"][0] = 100
    doubled = {"new": arrays["a"] * 2, **arrays}
    save_file(doubled, path, fsync=fsync)
    assert np.array_equal(arrays["a"], np.arange(200_000))
    loaded = load_file(path)
    assert np.array_equal(loaded["new"], np.arange(200_000) * 2)
    assert np.array_equal(loaded["a"], np.arange(200_000))
    assert loaded["b"].tolist() == [100, 1, 2, 3, 4]
    assert os.listdir(path.parent) == [path.name]


def test_the_caller_s_dictionary_and_arrays_stay_as_they_are() -> None:
    arrays = {"z": np.arange(6, dtype=">i4").reshape(2, 3).T, "a": np.float32(1)}
    before = {name: (id(array), array.strides, array.dtype) for name, array in arrays.items()}
    save(arrays)
    assert {n: (id(a), a.strides, a.dtype) for n, a in arrays.items()} == before
    assert list(arrays) == ["z", "a"]


def test_importing_the_plugin_imports_no_numpy() -> None:
    code = "import sys, safetensors_numpy, safetensors_numpy._plugin; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == b"False\n"
