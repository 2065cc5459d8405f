"""Whose memory a tensor borrows, how long it lives, and that the file never changes under it."""

from __future__ import annotations

import copy
import gc
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import safe_open
from safetensors_torch import load, load_file, save, save_file

SIZE = 200_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a large tensor, whose pages are only read when they are touched."""
    tensors = {"a": torch.arange(float(SIZE)), "b": torch.arange(5, dtype=torch.uint8)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_tensors_of_a_mapped_file_lie_in_one_map_as_in_the_file(path: Path) -> None:
    with safe_open(path, "torch", backend="mmap") as file:
        offsets = {n: info.data_offsets[0] for n, info in file.header.tensors.items()}
        first, again = file.get_tensors(), file.get_tensors()
    distance = first["b"].data_ptr() - first["a"].data_ptr()
    assert distance == offsets["b"] - offsets["a"]
    assert again["a"].data_ptr() == first["a"].data_ptr()


def test_a_slice_of_a_mapped_file_borrows_the_map(path: Path) -> None:
    with safe_open(path, "torch", backend="mmap") as file:
        whole, part = file.get_tensor("a"), file.get_slice("a")[10:20:2]
    assert part.data_ptr() == whole.data_ptr() + 40
    assert part.tolist() == [10, 12, 14, 16, 18]


def test_tensors_of_a_file_that_was_read_own_memory_apart_from_each_other(path: Path) -> None:
    with safe_open(path, "torch", backend="pread") as file:
        first, again = file.get_tensor("a"), file.get_tensor("a")
    first.zero_()
    assert again[-1] == SIZE - 1


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_are_writable_and_writing_does_not_reach_the_file(path: Path, backend: Any) -> None:
    before = path.read_bytes()
    for tensor in load_file(path, backend=backend).values():
        tensor += 1
    assert path.read_bytes() == before
    assert load_file(path, backend=backend)["b"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_outlive_the_file_object_and_the_file(path: Path, backend: Any) -> None:
    with safe_open(path, "torch", backend=backend) as file:
        whole = file.get_tensor("a")
        part = file.get_slice("a")[-2:]
    del file
    path.unlink()
    gc.collect()
    assert torch.equal(whole, torch.arange(float(SIZE)))
    assert part.tolist() == [SIZE - 2, SIZE - 1]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its maps")
def test_the_map_ends_with_the_last_tensor_over_it(path: Path) -> None:
    def mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    tensors = load_file(path, backend="mmap")
    kept = tensors["b"][1:2]
    del tensors
    gc.collect()
    assert mapped()
    del kept
    gc.collect()
    assert not mapped()


@pytest.mark.parametrize("backend", ["mmap", "pread", "memory"])
def test_a_tensor_s_storage_holds_its_own_bytes_only(path: Path, backend: Any) -> None:
    data = bytearray(path.read_bytes())
    loaded = load(data) if backend == "memory" else load_file(path, backend=backend)
    for tensor in loaded.values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.storage_offset() == 0
        assert tensor._base is None
    stream = io.BytesIO()
    torch.save(loaded["b"], stream)
    assert len(stream.getvalue()) < 10_000
    copied = copy.deepcopy(loaded["b"])
    assert copied.tolist() == [0, 1, 2, 3, 4]
    assert copied.untyped_storage().nbytes() == 5


def test_loading_writable_bytes_borrows_them() -> None:
    data = bytearray(save({"w": torch.zeros(3, dtype=torch.uint8)}))
    load(data)["w"].fill_(7)
    assert data[-3:] == b"\7\7\7"


def test_loading_read_only_bytes_copies_them() -> None:
    data = save({"w": torch.zeros(3, dtype=torch.uint8)})
    load(data)["w"].fill_(7)
    assert data[-3:] == b"\0\0\0"


@pytest.mark.parametrize("fsync", [True, False])
def test_saving_over_the_file_that_the_tensors_are_mapped_from_keeps_both(
    path: Path, fsync: bool
) -> None:
    tensors = load_file(path, backend="mmap")
    tensors["b"][0] = 100
    save_file({"new": tensors["a"] * 2, **tensors}, path, fsync=fsync)
    assert torch.equal(tensors["a"], torch.arange(float(SIZE)))
    loaded = load_file(path)
    assert torch.equal(loaded["new"], torch.arange(float(SIZE)) * 2)
    assert torch.equal(loaded["a"], torch.arange(float(SIZE)))
    assert loaded["b"].tolist() == [100, 1, 2, 3, 4]
    assert os.listdir(path.parent) == [path.name]


def test_importing_the_plugin_imports_no_torch() -> None:
    code = "import sys, safetensors_torch, safetensors_torch._plugin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == b"False\n"
