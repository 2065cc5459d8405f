"""Loading to GPUs: shared blocks that nobody notices, and few copies from pinned memory.

The first tests need no GPU: the host stands in for it. Those at the end need one.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import safetensors_numpy
import safetensors_paddle
from plugins.paddle.tests.host_gpu import HostGpu
from safetensors_core import Dtype, InvalidInputError, TensorInfo, safe_open
from safetensors_core.transfer import ring
from safetensors_paddle import dlpack, load_file, save, save_file
from safetensors_paddle.accelerator import GpuAccelerator, pays_off, release_pinned_memory
from safetensors_paddle.dlpack import DTYPES, tensors_in_block
from safetensors_paddle.framework import PaddleFramework

needs_gpu = pytest.mark.skipif(
    not paddle.is_compiled_with_cuda() or not paddle.device.cuda.device_count(),
    reason="needs a GPU",
)


def every_dtype() -> dict[str, paddle.Tensor]:
    """A tensor of each dtype, of every length, scalars and empty ones."""
    tensors: dict[str, paddle.Tensor] = {}
    for number, code in enumerate(DTYPES):
        bits = (np.arange(24 * (number + 1) * 8) % 2).astype(np.uint8)
        info = TensorInfo(code, (bits.size * 8 // code.bits,), (0, bits.size))
        tensors |= PaddleFramework().from_buffers(memoryview(bits.data), {str(code): info}, "cpu")
    tensors["matrix"] = paddle.arange(35, dtype="float32").reshape([5, 7])
    tensors["scalar"] = paddle.to_tensor(7.0)
    tensors["empty"] = paddle.zeros([3, 0])
    for number in range(40):  # enough for the pipeline
        tensors[f"t{number}"] = paddle.full([number + 1], number, dtype="int16")
    return tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of all of them."""
    save_file(every_dtype(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> HostGpu:
    """The host in the place of a GPU, and no pinned memory that an earlier test had."""
    monkeypatch.setattr(ring, "_rings", {})
    return HostGpu(monkeypatch)


@pytest.mark.parametrize("pins", [True, False])
@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_every_tensor_arrives_bit_for_bit(
    path: Path, gpu: HostGpu, backend: Any, pins: bool
) -> None:
    gpu.pins = pins
    loaded = load_file(path, "gpu:0", backend=backend)
    assert save(loaded) == path.read_bytes()
    assert list(loaded) == list(load_file(path))
    for name, tensor in load_file(path).items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert loaded[name].stop_gradient
    blocks = [call for call in gpu.calls if call.startswith("block")]
    assert len(blocks) == 1
    assert gpu.calls.count("pin") == gpu.calls.count("event") == 1
    assert gpu.calls[-1] == "copy 0"  # the empty one


def test_a_few_small_tensors_come_without_the_pipeline(path: Path, gpu: HostGpu) -> None:
    with safe_open(path, "paddle", "gpu:0") as file:
        assert file.get_tensor("matrix").tolist() == every_dtype()["matrix"].tolist()
    assert gpu.calls == ["copy 35"]


def test_tensors_larger_than_a_slot_come_in_pieces(tmp_path: Path, gpu: HostGpu) -> None:
    large = paddle.arange(5_000_001, dtype="int64")
    save_file({"a": large, "b": paddle.ones([3])}, tmp_path / "a.safetensors")
    loaded = load_file(tmp_path / "a.safetensors", "gpu:0")
    assert bool((loaded["a"] == large).all())
    assert loaded["b"].tolist() == [1, 1, 1]
    assert gpu.calls.count("event") == 3


def test_pinned_memory_begins_at_a_page_and_is_released_on_request(
    path: Path, gpu: HostGpu
) -> None:
    pinned = GpuAccelerator(gpu).pin(8192)
    assert ctypes.addressof(ctypes.c_char.from_buffer(pinned.view)) % 4096 == 0
    assert len(pinned.view) == 8192
    gpu.calls.clear()
    for _ in range(2):
        load_file(path, "gpu:0")
    assert gpu.calls.count("pin") == 1
    safetensors_paddle.release_pinned_memory()
    load_file(path, "gpu:0")
    assert gpu.calls.count("pin") == 2


def test_a_change_of_one_tensor_is_none_of_its_neighbours(path: Path, gpu: HostGpu) -> None:
    assert gpu.is_gpu_place()
    loaded = load_file(path, "gpu:0")
    matrix, neighbour = loaded["matrix"], loaded["t3"]
    before = neighbour.tolist()
    matrix.stop_gradient = False
    loss = (matrix * matrix).sum()
    neighbour.fill_(9)
    loss.backward()
    assert matrix.grad.tolist() == (every_dtype()["matrix"] * 2).tolist()
    matrix.detach().cast_("float64")  # needs more memory than it had
    assert neighbour.tolist() == [9] * len(before)


def test_a_block_lives_as_long_as_the_last_tensor_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlpack, "_CUDA", 1)
    ended = []

    class Block:
        """Counts its end."""

        def __init__(self) -> None:
            self.memory = paddle.zeros([512], dtype="uint8")
            self.size, self.place = 512, self.memory.place

        def data_ptr(self) -> int:
            address: int = self.memory.data_ptr()
            return address

        def __del__(self) -> None:
            ended.append(True)

    infos = {
        "a": TensorInfo(Dtype.F32, (2,), (0, 8)),
        "b": TensorInfo(Dtype.BF16, (4,), (256, 264)),
    }
    tensors = tensors_in_block(Block(), infos)
    del tensors["a"]
    gc.collect()
    assert not ended
    assert tensors["b"].astype("float32").tolist() == [0, 0, 0, 0]
    tensors.clear()
    gc.collect()
    assert ended


def test_what_is_exported_says_that_it_lies_on_a_gpu() -> None:
    array = np.zeros(3, np.float32)
    capsule = dlpack._exported_on_gpu(5, array)
    managed = dlpack._Managed.from_address(dlpack._content(capsule, b"dltensor"))
    assert (managed.data, managed.device_type, managed.device_id) == (array.ctypes.data, 2, 5)


def test_a_shape_that_paddle_lacks_is_refused(tmp_path: Path, gpu: HostGpu) -> None:
    assert gpu.pins
    arrays = {"w": np.zeros((1,) * 12, np.float32)} | {
        f"t{number}": np.zeros(1, np.int8) for number in range(40)
    }
    safetensors_numpy.save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInputError, match=r"'w'.*more than 9 dimensions"):
        load_file(tmp_path / "a.safetensors", "gpu:0")


def test_a_file_that_became_shorter_is_an_error(path: Path, gpu: HostGpu) -> None:
    assert gpu.pins
    with safe_open(path, "paddle", "gpu:0", backend="pread") as file:
        with path.open("r+b") as shortened:
            shortened.truncate(path.stat().st_size // 2)
        with pytest.raises(OSError, match="ended"):
            file.get_tensors()


def test_only_gpus_that_dlpack_reaches_have_the_pipeline(
    gpu: HostGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = {str(n): TensorInfo(Dtype.U8, (1,), (n, n + 1)) for n in range(40)}
    assert pays_off(gpu, infos)
    assert not pays_off(gpu, {"0": infos["0"]})
    assert not pays_off(paddle.CPUPlace(), infos)
    with monkeypatch.context() as patched:
        patched.setattr(paddle, "is_compiled_with_rocm", lambda: True)
        assert not pays_off(gpu, infos)
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    try:
        assert not pays_off(gpu, infos)
    finally:
        paddle.set_flags({"FLAGS_use_stride_kernel": True})


def test_what_is_saved_from_a_device_is_what_is_saved_from_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = every_dtype() | {"columns": paddle.arange(12).reshape([3, 4])[:, ::2]}
    expected = save(tensors)
    monkeypatch.setattr(PaddleFramework, "devices", lambda _: ("cpu", "gpu:0"))
    assert save(tensors) == expected
    save_file(tensors, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == expected


ALL = slice(None)
INDEXES: dict[str, Any] = {
    "all": (ALL, ALL),
    "backwards": (ALL, slice(None, None, -1)),
    "half of the columns": (ALL, slice(0, 4)),
    "every other column": (ALL, slice(1, 8, 2)),
    "a new axis": (None, ALL, ALL),
    "an axis that is left out": (slice(0, 4),),
    "less than half": (ALL, slice(0, 3)),
    "one row": (3,),
    "a list": (ALL, [0, 7, 1]),
}


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("case", INDEXES)
def test_slices_that_leave_half_are_taken_on_the_device(
    tmp_path: Path, gpu: HostGpu, case: str, code: Any
) -> None:
    bits = (np.arange(8 * code.bits) % 251).astype(np.uint8)
    if code == "BOOL":
        bits %= 2
    info = TensorInfo(code, (8, 8), (0, bits.size))
    saved = PaddleFramework().from_buffers(memoryview(bits.data), {"w": info}, "cpu")
    save_file(saved, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "paddle", "gpu:0") as file:
        part = file.get_slice("w")[INDEXES[case]]
    expected = bits.reshape(8, 8, -1)[INDEXES[case]]
    assert part.dtype == DTYPES[code]
    assert tuple(part.shape) == expected.shape[:-1]
    assert bytes(PaddleFramework().to_buffer(part)) == expected.tobytes()
    assert part.is_contiguous()
    whole = case in {"backwards", "half of the columns", "every other column", "a new axis"}
    assert gpu.calls == [f"copy {64 if whole else part.size}"]


def test_a_slice_for_which_the_device_has_no_kernel_is_taken_on_the_host(
    tmp_path: Path, gpu: HostGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"w": paddle.arange(8)}, tmp_path / "w.safetensors")

    def refuse(*_: Any) -> None:
        raise RuntimeError("(NotFound) the kernel is not registered")

    monkeypatch.setattr(paddle, "view", refuse)
    with safe_open(tmp_path / "w.safetensors", "paddle", "gpu:0") as file:
        assert file.get_slice("w")[::-1].tolist() == list(range(7, -1, -1))
    assert gpu.calls == ["copy 8", "copy 8"]


def test_without_a_gpu_there_is_nothing_to_release() -> None:
    release_pinned_memory()


# With a GPU.


@needs_gpu
@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_a_large_file_comes_to_a_gpu_and_back(tmp_path: Path, backend: Any) -> None:
    tensors = every_dtype() | {"large": paddle.arange(80_000_001, dtype="int64").cpu()}
    save_file(tensors, tmp_path / "host.safetensors", fsync=False)
    loaded = load_file(tmp_path / "host.safetensors", "gpu:0", backend=backend)
    assert all(tensor.place.is_gpu_place() for tensor in loaded.values())
    assert int(loaded["large"].sum()) == 80_000_001 * 40_000_000
    save_file(loaded, tmp_path / "gpu.safetensors", fsync=False)
    assert (tmp_path / "gpu.safetensors").read_bytes() == (
        tmp_path / "host.safetensors"
    ).read_bytes()


@needs_gpu
def test_memory_of_a_gpu_is_freed_with_the_tensors(path: Path) -> None:
    gc.collect()
    before = paddle.device.cuda.memory_allocated()
    loaded = load_file(path, "gpu:0")
    assert paddle.device.cuda.memory_allocated() > before
    del loaded
    gc.collect()
    assert paddle.device.cuda.memory_allocated() == before


@needs_gpu
@pytest.mark.parametrize("case", INDEXES)
def test_slices_on_a_gpu_are_those_of_the_host(tmp_path: Path, case: str) -> None:
    save_file({"w": paddle.arange(64).reshape([8, 8]).cpu()}, tmp_path / "w.safetensors")
    with (
        safe_open(tmp_path / "w.safetensors", "paddle", "gpu:0") as there,
        safe_open(tmp_path / "w.safetensors", "paddle") as here,
    ):
        part = there.get_slice("w")[INDEXES[case]]
        assert part.place.is_gpu_place()
        assert part.tolist() == here.get_slice("w")[INDEXES[case]].tolist()
