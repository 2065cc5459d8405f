"""Devices as torch spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import InvalidInputError, load_file, safe_open
from safetensors_torch import load, save, save_file

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two tensors."""
    tensors = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.arange(3, dtype=torch.int8)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu"), None])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_the_host_has_several_names(path: Path, device: Any, backend: Any) -> None:
    with safe_open(path, "torch", device, backend=backend) as file:
        tensors = [
            file.get_tensor("w"),
            file.get_slice("w")[:],
            load(path.read_bytes(), device)["w"],
        ]
    for tensor in tensors:
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, torch.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize("device", ["meta", torch.device("meta")])
def test_tensors_without_data_have_dtype_and_shape(path: Path, device: Any) -> None:
    loaded = load_file(path, "torch", device)
    assert {n: (t.device.type, t.dtype, tuple(t.shape)) for n, t in loaded.items()} == {
        "w": ("meta", torch.float32, (3, 4)),
        "b": ("meta", torch.int8, (3,)),
    }
    with safe_open(path, "torch", device) as file:
        part = file.get_slice("w")[1:, ::2]
    assert (part.device.type, tuple(part.shape)) == ("meta", (2, 2))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_loading_without_data_reads_none(tmp_path: Path, backend: Any) -> None:
    path = tmp_path / "model.safetensors"
    nbytes = 1 << 40  # more than any test machine could read or hold
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (nbytes, nbytes)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    try:
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + nbytes)
    except OSError as error:
        pytest.skip(f"this file system has no files of 1 TiB with holes: {error.strerror}")
    assert load_file(path, "torch", "meta", backend=backend)["w"].shape == (nbytes,)


@pytest.mark.parametrize("device", ["nonsense", "", -1, 1.5, [0], "cuda:1:2", "mps:7", object])
def test_what_torch_does_not_know_is_refused(path: Path, device: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"device .* cannot be used: ."):
        load_file(path, "torch", device)
    with pytest.raises(InvalidInputError, match=r"device .* cannot be used: ."):
        load(path.read_bytes(), device)


@needs_no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1", 0, 1, torch.device("cuda", 1)])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_device_that_is_not_there_is_refused_by_its_name(
    path: Path, device: Any, backend: Any
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_file(path, "torch", device, backend=backend)
    assert str(caught.value).startswith(f"device {device!r} cannot be used: ")
    assert "\n" not in str(caught.value)


@needs_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, torch.device("cuda", 0)])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_come_to_a_gpu_and_back(path: Path, device: Any, backend: Any) -> None:
    loaded = load_file(path, "torch", device, backend=backend)
    assert {tensor.device.type for tensor in loaded.values()} == {"cuda"}
    assert torch.equal(loaded["w"].cpu(), torch.arange(12.0).reshape(3, 4))
    with safe_open(path, "torch", device, backend=backend) as file:
        assert file.get_slice("w")[1, ::-1].tolist() == [7, 6, 5, 4]
    assert save(loaded) == path.read_bytes()
