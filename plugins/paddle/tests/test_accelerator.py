"""Loading to GPUs by way of pinned memory, saving from them, and slices that are taken there.

The first tests need no GPU: the host stands in for it. Those at the end need one.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import safetensors_numpy
import safetensors_paddle
from plugins.paddle.tests.host_gpu import HostGpu
from safetensors_core import Dtype, InvalidInputError, TensorInfo, safe_open
from safetensors_core.transfer import download, ring
from safetensors_paddle import framework, load_file, save, save_file
from safetensors_paddle.accelerator import GpuAccelerator, large_ones, release_pinned_memory
from safetensors_paddle.framework import PaddleFramework
from safetensors_paddle.host_memory import DTYPES

needs_gpu = pytest.mark.skipif(
    not paddle.is_compiled_with_cuda() or not paddle.device.cuda.device_count(),
    reason="needs a GPU",
)


def every_dtype(count: int = 24) -> dict[str, paddle.Tensor]:
    """A tensor of each dtype, with so many bytes or more, a scalar and an empty one."""
    tensors: dict[str, paddle.Tensor] = {}
    for number, code in enumerate(DTYPES):
        bits = (np.arange(count * (number + 1) * 8) % 2).astype(np.uint8)
        info = TensorInfo(code, (bits.size * 8 // code.bits // 2, 2), (0, bits.size))
        tensors |= PaddleFramework().from_buffers(memoryview(bits.data), {str(code): info}, "cpu")
    tensors["scalar"] = paddle.to_tensor(7.0)
    tensors["empty"] = paddle.zeros([3, 0])
    return tensors


LARGE = 1 << 17  # of which every tensor that has this count is a large one


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of large tensors, and of two small ones."""
    path = tmp_path_factory.mktemp("large") / "a.safetensors"
    save_file(every_dtype(LARGE), path, fsync=False)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> HostGpu:
    """The host in the place of a GPU, and no pinned memory that an earlier test had."""
    monkeypatch.setattr(ring, "_rings", {})
    return HostGpu(monkeypatch)


@pytest.mark.parametrize("no_pins", [None, MemoryError, OSError, RuntimeError, "nowhere"])
@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_every_tensor_arrives_bit_for_bit(
    path: Path, gpu: HostGpu, backend: Any, no_pins: Any
) -> None:
    gpu.no_pins = no_pins
    loaded = load_file(path, "gpu:0", backend=backend)
    assert save(loaded) == path.read_bytes()
    assert list(loaded) == list(load_file(path))
    for name, tensor in load_file(path).items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert loaded[name].stop_gradient
        assert loaded[name]._holder_size() == tensor._holder_size()
    blocks = [call for call in gpu.calls if call.startswith("block")]
    assert len(blocks) == len(DTYPES)
    assert gpu.calls.count("event") >= len(DTYPES)
    # The two small ones go without the pipeline.
    assert sorted(call for call in gpu.calls if call.startswith("copy")) == ["copy 0", "copy 1"]


def test_a_load_ends_when_its_last_copy_has(path: Path, gpu: HostGpu) -> None:
    load_file(path, "gpu:0")
    assert gpu.events[-1].asked == 2


def test_small_tensors_come_without_the_pipeline(tmp_path: Path, gpu: HostGpu) -> None:
    tensors = every_dtype()
    save_file(tensors, tmp_path / "a.safetensors")
    assert save(load_file(tmp_path / "a.safetensors", "gpu:0")) == save(tensors)
    assert len(gpu.calls) == len(tensors)
    assert {call.split()[0] for call in gpu.calls} == {"copy"}


def test_nothing_is_loaded_of_nothing(tmp_path: Path, gpu: HostGpu) -> None:
    save_file({}, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors", "gpu:0") == {}
    assert gpu.calls == []


def test_tensors_larger_than_a_slot_come_in_pieces(tmp_path: Path, gpu: HostGpu) -> None:
    large = paddle.arange(5_000_001, dtype="int64")
    save_file({"a": large, "b": paddle.ones([3])}, tmp_path / "a.safetensors")
    loaded = load_file(tmp_path / "a.safetensors", "gpu:0")
    assert bool((loaded["a"] == large).all())
    assert loaded["b"].tolist() == [1, 1, 1]
    assert gpu.calls.count("event") == 3


def test_a_copy_that_another_thread_may_have_sent_elsewhere_is_waited_for(
    path: Path, gpu: HostGpu
) -> None:
    load_file(path, "gpu:0")
    assert "synchronize" not in gpu.calls
    gpu.calls.clear()
    gpu.moves = True
    load_file(path, "gpu:0")
    assert gpu.calls.count("synchronize") == gpu.calls.count("event") > 0


def test_pinned_memory_begins_at_a_page_and_is_released_on_request(
    path: Path, gpu: HostGpu
) -> None:
    pinned = GpuAccelerator(gpu).pin(8192)
    assert ctypes.addressof(ctypes.c_char.from_buffer(pinned.view)) % 4096 == 0
    assert len(pinned.view) == 8192
    with safe_open(path, "paddle", "gpu:0") as file:
        for _ in range(2):
            file.get_tensors(["I64"])
        held = ring._rings["paddle gpu"]._pinned
        assert gpu.calls.count("pin") == held + 1
        safetensors_paddle.release_pinned_memory()
        assert ring._rings["paddle gpu"]._pinned == 0
        file.get_tensors(["I64"])
    assert gpu.calls.count("pin") > held + 1


@pytest.mark.usefixtures("gpu")
def test_a_change_of_one_tensor_is_none_of_another(path: Path) -> None:
    loaded = load_file(path, "gpu:0")
    trained, others = loaded.pop("F32"), save({"F64": loaded["F64"], "I32": loaded["I32"]})
    trained.stop_gradient = False
    loss = (trained * trained).sum()
    loaded["I64"].fill_(9)
    loss.backward()
    assert np.array_equal(trained.grad.numpy(), 2 * trained.numpy())
    trained.detach().cast_("float64")  # needs more memory than it had
    assert save({"F64": loaded["F64"], "I32": loaded["I32"]}) == others


@pytest.mark.usefixtures("gpu")
def test_a_shape_that_paddle_lacks_is_refused(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "w": np.zeros((1 << 18, *[1] * 11), np.float32),
        "v": np.zeros(1 << 22, np.int8),
    }
    safetensors_numpy.save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInputError, match=r"'w'.*more than 9 dimensions"):
        load_file(tmp_path / "a.safetensors", "gpu:0")


@pytest.mark.usefixtures("gpu")
def test_a_file_that_became_shorter_is_an_error(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "a.safetensors"
    cut.write_bytes(path.read_bytes())
    with safe_open(cut, "paddle", "gpu:0", backend="pread") as file:
        os.truncate(cut, path.stat().st_size // 2)
        with pytest.raises(OSError, match="ended"):
            file.get_tensors()


def test_only_gpus_whose_tensors_have_views_have_the_pipeline(gpu: HostGpu) -> None:
    mib = 1 << 20
    infos = {
        name: TensorInfo(Dtype.U8, (size,), (0, size))
        for name, size in {"large": 4 * mib, "small": mib - 1}.items()
    }
    assert list(large_ones(gpu, infos)) == ["large"]
    assert not large_ones(gpu, {"small": infos["small"]})
    assert not large_ones(paddle.CPUPlace(), infos)
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    try:
        assert not large_ones(gpu, infos)
    finally:
        paddle.set_flags({"FLAGS_use_stride_kernel": True})


def test_tensors_of_a_device_come_to_the_host_ahead_of_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = every_dtype() | {"columns": paddle.arange(12).reshape([3, 4])[:, ::2]}
    expected = save(tensors)
    groups: list[int] = []

    def noted(taken: Iterable[Any], to_host: Callable[[Any], Any]) -> Iterator[memoryview]:
        def copy(group: list[Any]) -> Any:
            groups.append(len(group))
            return to_host(group)

        return download(taken, copy)

    monkeypatch.setattr(framework, "download", noted)
    save_file(tensors, tmp_path / "host.safetensors")
    assert groups == []  # nothing is on a device
    monkeypatch.setattr(PaddleFramework, "devices", lambda _: ("cpu", "gpu:0"))
    assert save(tensors) == expected
    assert groups == [len(tensors) - 1]  # but the empty one
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
