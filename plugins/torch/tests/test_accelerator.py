"""Loading to accelerators: shared blocks that nobody notices, and streams that wait for each other.

The first tests need no GPU: the host stands in for the device. Those at the end need one.
"""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from plugins.torch.tests.host_device import HostCuda
from safetensors_core import Dtype, TensorInfo, safe_open
from safetensors_core import load_file as load_with
from safetensors_core.transfer import ring
from safetensors_core.transfer.accelerator import Accelerator
from safetensors_torch import framework, load_file, save, save_file, staging
from safetensors_torch.accelerator import CudaAccelerator, pays_off, release_pinned_memory
from safetensors_torch.blocks import tensors_in_blocks
from safetensors_torch.description import DTYPES
from safetensors_torch.sharing import overlapping
from safetensors_torch.staging import bytes_on_host, groups, staged_buffers

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def every_dtype() -> dict[str, torch.Tensor]:
    """A tensor of each dtype, of every length, scalars and empty ones."""
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint8)
    tensors = {
        str(dtype).partition(".")[2]: bits[: 24 * (number + 1)].view(dtype).clone()
        for number, dtype in enumerate(DTYPES.values())
        if dtype is not torch.bool
    }
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["matrix"] = torch.arange(35.0).reshape(5, 7)
    tensors["scalar"] = torch.tensor(7.0)
    tensors["empty"] = torch.zeros(3, 0)
    return tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether tensors have the same names, dtypes, shapes and bits."""
    return list(one) == list(other) and save(one) == save(other)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    """The host as a CUDA device, on which every load pays off."""
    monkeypatch.setattr(framework, "pays_off", lambda *_: True)
    monkeypatch.setattr(ring, "_rings", {})
    return HostCuda(monkeypatch)


def test_every_dtype_comes_by_way_of_blocks(tmp_path: Path, cuda: HostCuda) -> None:
    tensors = every_dtype()
    save_file(tensors, tmp_path / "a.safetensors")
    plain = load_with(tmp_path / "a.safetensors", "torch", "meta")
    loaded = load_file(tmp_path / "a.safetensors", backend="pread")
    assert "pin" in cuda.calls
    assert same({name: loaded[name] for name in tensors}, tensors)
    assert list(loaded) == list(plain)
    assert {name: t.shape for name, t in loaded.items()} == {n: t.shape for n, t in plain.items()}


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_one_tensor_comes_by_way_of_a_block(tmp_path: Path, cuda: HostCuda, backend: Any) -> None:
    save_file(every_dtype(), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "torch", backend=backend) as file:
        tensor = file.get_tensor("matrix")
    assert torch.equal(tensor, torch.arange(35.0).reshape(5, 7))
    assert cuda.calls.count("pin") == 1


def test_streams_wait_for_each_other_and_the_program_for_none(
    tmp_path: Path, cuda: HostCuda
) -> None:
    save_file({"w": torch.ones(100)}, tmp_path / "a.safetensors")
    load_file(tmp_path / "a.safetensors", backend="pread")
    assert cuda.calls == [
        "block of program",
        "own waits for program",
        "memory is used on own",
        "pin",
        "event on own",
        "program waits for own",
    ]


def test_where_pinning_is_refused_plain_memory_serves(tmp_path: Path, cuda: HostCuda) -> None:
    cuda.pins = False
    tensors = {"w": torch.arange(5000.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert same(load_file(tmp_path / "a.safetensors", backend="pread"), tensors)


def test_pinned_memory_begins_at_a_page_where_pinning_is_refused(cuda: HostCuda) -> None:
    cuda.pins = False
    pinned = CudaAccelerator(torch.device("cuda")).pin(ring.SLOT)
    assert pinned.memory.data_ptr() % 4096 == 0
    assert len(pinned.view) == ring.SLOT
    pinned.view[:3] = b"abc"
    assert pinned.memory[:3].tolist() == [97, 98, 99]


def test_conversions_and_selections_come_by_way_of_blocks(tmp_path: Path, cuda: HostCuda) -> None:
    tensors = {"a": torch.ones(300), "b": torch.arange(4), "c": torch.zeros(2)}
    save_file(tensors, tmp_path / "a.safetensors")
    loaded = load_file(tmp_path / "a.safetensors", backend="pread", dtype="BF16", keys=["a", "b"])
    assert same(
        {name: loaded[name] for name in "ab"},
        {"a": torch.ones(300, dtype=torch.bfloat16), "b": torch.arange(4)},
    )
    assert cuda.calls


def blocks_of(count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    block = torch.arange(256 * count, dtype=torch.int32).to(torch.uint8)
    parts = ((0, 256 * i, 256 * i + 16, torch.float32, (2, 2)) for i in range(count))
    return block, list(tensors_in_blocks([block], parts))


def test_tensors_of_a_block_share_nothing_that_programs_look_at() -> None:
    _, tensors = blocks_of(3)
    storages = {(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in tensors}
    assert len(storages) == 3
    assert {nbytes for _, nbytes in storages} == {16}
    assert not any(tensor._is_view() for tensor in tensors)
    assert [tensor.storage_offset() for tensor in tensors] == [0, 0, 0]
    assert overlapping({str(i): tensor for i, tensor in enumerate(tensors)}) == []


def test_tensors_of_a_block_are_saved_by_torch_without_their_neighbours() -> None:
    _, tensors = blocks_of(100)
    file = io.BytesIO()
    torch.save(tensors[7], file)
    assert file.tell() < 25_600 / 4
    file.seek(0)
    assert torch.equal(torch.load(file).view(torch.uint8), tensors[7].view(torch.uint8))
    assert copy.deepcopy(tensors[7]).untyped_storage().nbytes() == 16


def test_a_block_lives_as_long_as_one_of_its_tensors() -> None:
    block, tensors = blocks_of(3)
    expected = block[512:528].tolist()
    gone = weakref.ref(block)
    del block
    last = tensors.pop()
    tensors.clear()
    gc.collect()
    assert gone() is None  # the block's own tensor; its memory is still there
    assert last.view(torch.uint8).reshape(-1).tolist() == expected


def test_a_change_of_one_tensor_reaches_no_other() -> None:
    block, tensors = blocks_of(2)
    before = block[256:].clone()
    tensors[0].fill_(1.0)
    tensors[0].grad = torch.zeros(2, 2)
    assert torch.equal(block[256:], before)


def test_tensors_of_a_block_can_be_those_of_a_model(tmp_path: Path, cuda: HostCuda) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    other = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    other.load_state_dict(load_file(tmp_path / "a.safetensors", backend="pread"), assign=True)
    other(torch.ones(1, 8)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert save(dict(other.state_dict())) != save(dict(model.state_dict()))
    assert cuda.calls


def test_few_small_tensors_and_the_host_take_the_plain_way() -> None:
    meta = {"w": TensorInfo(Dtype.U8, (1000,), (0, 1000))}
    large = {"w": TensorInfo(Dtype.U8, (1 << 22,), (0, 1 << 22))}
    many = {str(i): TensorInfo(Dtype.U8, (1,), (i, i + 1)) for i in range(40)}
    gpu, host = torch.device("cuda", 1), torch.device("cpu")
    assert [pays_off(gpu, infos) for infos in (meta, large, many)] == [False, True, True]
    assert not pays_off(host, large)
    assert not pays_off(torch.device("mps"), large)


@pytest.mark.parametrize(
    ("device", "maps"),
    [
        ("cpu", True),
        (None, True),
        ("meta", True),
        ("cuda:1", False),
        ("nonsense", True),
        ([], True),
    ],
)
def test_only_the_host_maps_files_by_itself(device: Any, maps: bool) -> None:
    assert framework.TorchFramework().prefers_map(device) is maps


def test_groups_are_neighbours_of_one_device_that_fit_together() -> None:
    sizes = [4 << 20, 4 << 20, 9 << 20, 30 << 20, 1, 1]
    tensors = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    tensors.append(torch.empty(1, device="meta"))
    found = [[tensor.nbytes for tensor in group.tensors] for group in groups(iter(tensors))]
    assert found == [[4 << 20, 4 << 20], [9 << 20], [30 << 20], [1, 1], [4]]


def test_tensors_come_to_the_host_with_one_copy() -> None:
    tensors = list(every_dtype().values())[:-1]
    tensors += [
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor([1 + 2j, 3j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch._efficientzerotensor((2, 2)),
    ]
    plain = [bytes(framework.TorchFramework().to_buffer(tensor)) for tensor in tensors]
    assert list(map(bytes, bytes_on_host(tensors))) == plain


def test_what_is_saved_from_a_device_is_what_is_saved_from_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: t for name, t in every_dtype().items() if t.numel()}
    expected = save(tensors)
    HostCuda(monkeypatch)
    assert save(tensors) == expected
    save_file(tensors, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == expected
    lent = framework.TorchFramework()._lent_buffers
    staged = staged_buffers(iter(tensors.values()), lent)
    assert list(map(bytes, staged)) == [bytes(view) for view in lent(tensors.values())]


def test_a_group_is_copied_behind_what_the_program_computes(cuda: HostCuda) -> None:
    stream: Any = torch.cuda.current_stream(torch.device("cuda"))
    seen = []

    def lent(tensors: Sequence[torch.Tensor]) -> list[memoryview]:
        raise AssertionError(tensors)

    class Watched(torch.Tensor):
        def detach(self) -> torch.Tensor:
            seen.append(torch.cuda.current_stream(torch.device("cuda")))
            return super().detach()

    tensor = torch.arange(3, dtype=torch.uint8).as_subclass(Watched)
    [buffer] = staging._to_host(lent, staging.Group(stream, [tensor]))
    assert bytes(buffer) == b"\0\1\2"
    assert seen == [stream]
    assert cuda.calls == []


def test_pinned_memory_is_released_on_request(tmp_path: Path, cuda: HostCuda) -> None:
    save_file({"w": torch.ones(100)}, tmp_path / "a.safetensors")
    for _ in range(2):
        load_file(tmp_path / "a.safetensors", backend="pread")
    assert cuda.calls.count("pin") == 1
    ring.release_pinned_memory()
    load_file(tmp_path / "a.safetensors", backend="pread")
    assert cuda.calls.count("pin") == 2


def test_without_a_device_there_is_nothing_to_release() -> None:
    release_pinned_memory()


def test_the_device_is_an_accelerator_of_core() -> None:
    assert issubclass(CudaAccelerator, Accelerator)


# With a GPU.


def large_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(1000, 1000), (3,), (5000, 5001), (17, 3, 5), (64, 1 << 20)]
    tensors = {
        f"t{number}": torch.randn(shape, generator=generator) for number, shape in enumerate(shapes)
    }
    return tensors | every_dtype()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that takes several blocks and many slots."""
    save_file(large_tensors(), tmp_path / "large.safetensors", fsync=False)
    return tmp_path / "large.safetensors"


@needs_cuda
@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_a_large_file_comes_to_a_gpu_and_back(large: Path, backend: Any) -> None:
    loaded = load_file(large, "cuda", backend=backend)
    assert {tensor.device.type for tensor in loaded.values()} == {"cuda"}
    assert same(loaded, load_file(large))


@needs_cuda
def test_what_the_program_computes_at_once_waits_for_the_copies(large: Path) -> None:
    expected = load_file(large)["t4"].sum(dtype=torch.float64).item()
    for _ in range(5):
        found = load_file(large, "cuda")["t4"].sum(dtype=torch.float64).item()
        assert found == pytest.approx(expected)


@needs_cuda
def test_memory_is_that_of_torch_and_is_freed_with_the_tensors(large: Path) -> None:
    gc.collect()
    before = torch.cuda.memory_allocated()
    loaded = load_file(large, "cuda")
    nbytes = sum(tensor.nbytes for tensor in loaded.values())
    assert nbytes <= torch.cuda.memory_allocated() - before <= nbytes * 1.1
    del loaded
    gc.collect()
    assert torch.cuda.memory_allocated() == before


@needs_cuda
def test_every_gpu_and_several_threads_load_at_once(large: Path) -> None:
    expected = load_file(large)
    right: list[bool] = []

    def load(device: int) -> None:
        loaded = load_file(large, f"cuda:{device}")
        devices = {tensor.device.index for tensor in loaded.values()}
        right.append(devices == {device} and same(loaded, expected))

    count = torch.cuda.device_count()
    threads = [threading.Thread(target=load, args=(i % count,)) for i in range(2 * count + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert right == [True] * len(threads)


@needs_cuda
def test_a_stream_of_the_programs_own_waits_as_well(large: Path) -> None:
    expected = load_file(large)["t4"]
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        assert torch.equal(load_file(large, "cuda")["t4"].cpu(), expected)


@needs_cuda
def test_an_error_of_the_file_leaves_a_gpu_that_works(large: Path) -> None:
    with safe_open(large, "torch", "cuda") as file:
        with large.open("r+b") as shortened:
            shortened.truncate(large.stat().st_size // 2)
        with pytest.raises(OSError, match="ended"):
            file.get_tensors()
    torch.cuda.synchronize()
    assert torch.ones(3, device="cuda").sum().item() == 3


@needs_cuda
def test_conversions_and_slices_come_to_a_gpu(large: Path) -> None:
    loaded = load_file(large, "cuda", dtype="BF16")
    assert loaded["t2"].dtype is torch.bfloat16
    assert torch.equal(loaded["t2"].cpu(), load_file(large)["t2"].to(torch.bfloat16))
    with safe_open(large, "torch", "cuda") as file:
        rows = file.get_slice("t2")[torch.tensor([4, 2], device="cuda"), 1:3]
    assert torch.equal(rows.cpu(), load_file(large)["t2"][[4, 2], 1:3])


@needs_cuda
def test_a_save_from_a_gpu_is_that_from_the_host(large: Path, tmp_path: Path) -> None:
    loaded = load_file(large, "cuda")
    loaded["columns"] = loaded["t2"].t()[:, :100]
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        loaded["computed"] = loaded["t0"] * 2
        save_file(loaded, tmp_path / "gpu.safetensors", fsync=False)
    on_host = {name: tensor.cpu() for name, tensor in loaded.items()}
    save_file(on_host, tmp_path / "host.safetensors", fsync=False)
    assert (tmp_path / "gpu.safetensors").read_bytes() == (
        tmp_path / "host.safetensors"
    ).read_bytes()


@needs_cuda
def test_pinned_memory_of_a_gpu_is_kept_within_its_budget_and_released(large: Path) -> None:
    for _ in range(3):
        load_file(large, "cuda")
    assert ring._rings["cuda"]._pinned <= 16
    release_pinned_memory()
    assert ring._rings["cuda"]._pinned == 0
