"""Whose memory an array borrows, how long it lives, and that nothing writes into it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import safetensors_core
import safetensors_numpy
from safetensors_core import Dtype, TensorInfo, get_framework, safe_open
from safetensors_jax import load, load_file, placement, save, save_file
from safetensors_jax.devices import find_target

SIZE = 200_000
A = np.arange(SIZE, dtype=np.float32)
B = np.arange(1000, dtype=np.int32)
ON_LINUX = Path("/proc/self/maps").exists()


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    """A file whose tensors begin at multiples of 64 bytes."""
    path = tmp_path / "aligned.safetensors"
    save_file({"a": jnp.asarray(A), "b": jnp.asarray(B)}, path, alignment=64)
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A file as others write it, whose data begins 8 bytes after such a multiple."""
    path = tmp_path / "packed.safetensors"
    data = safetensors_numpy.save({"a": A, "b": B})
    length = int.from_bytes(data[:8], "little")
    padding = (8 - (8 + length)) % 64
    header = data[8 : 8 + length] + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert safetensors_core.read_header(path).data_start % 64 == 8
    return path


def address(array: jax.Array) -> int:
    pointer: int = array.unsafe_buffer_pointer()
    return pointer


def mapped_ranges(path: Path) -> list[range]:
    """Addresses at which a file is mapped, once for each time that it is."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    bounds = [line.split()[0].split("-") for line in lines if str(path) in line]
    return [range(int(begin, 16), int(end, 16)) for begin, end in bounds]


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


needs_maps = pytest.mark.skipif(not ON_LINUX, reason="only Linux lists its maps")


@needs_maps
@pytest.mark.parametrize("device", ["cpu", "cpu:0", None])
def test_aligned_tensors_of_a_mapped_file_are_not_copied(aligned: Path, device: Any) -> None:
    with safe_open(aligned, "jax", device, backend="mmap") as file:
        [mapped] = mapped_ranges(aligned)
        start = mapped.start + file.header.data_start
        offsets = {n: info.data_offsets[0] for n, info in file.header.tensors.items()}
        loaded, again = file.get_tensors(), file.get_tensors()
        for name, offset in offsets.items():
            assert address(loaded[name]) == address(again[name]) == start + offset
        assert address(file.get_slice("a")[16:]) == start + offsets["a"] + 64


@needs_maps
def test_aligned_tensors_of_a_mapped_file_are_not_copied_under_a_sharding(aligned: Path) -> None:
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    for spec in (jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("x")):
        sharding = jax.sharding.NamedSharding(mesh, spec)
        for array in load_file(aligned, sharding, backend="mmap").values():
            [part] = array.addressable_shards
            assert any(address(part.data) in mapped for mapped in mapped_ranges(aligned))


@needs_maps
def test_other_tensors_of_a_mapped_file_are_copied_once_and_the_map_ends(packed: Path) -> None:
    loaded = load_file(packed, backend="mmap")
    assert np.array_equal(loaded["a"], A)
    assert np.array_equal(loaded["b"], B)
    gc.collect()
    assert not is_mapped(packed)


@needs_maps
def test_tensors_of_a_file_that_was_read_lie_in_one_buffer(packed: Path) -> None:
    loaded = load_file(packed, backend="pread")
    assert address(loaded["b"]) % 64 == 0
    assert abs(address(loaded["b"]) - address(loaded["a"])) <= A.nbytes + 64


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_in_memory_are_copied_because_arrays_must_not_change(kind: Any) -> None:
    for padding in range(0, 64, 8):
        data = kind(save({"w": jnp.arange(30_000), "x" * padding: jnp.arange(3)}))
        loaded = load(data)
        begin = np.frombuffer(data, np.uint8).ctypes.data
        assert address(loaded["w"]) not in range(begin, begin + len(data))
        if kind is bytearray:
            data[-120_000:] = bytes(120_000)
        assert np.array_equal(loaded["w"], np.arange(30_000))


@pytest.mark.parametrize("size", [1, 1000, 100_000])
@pytest.mark.parametrize("offset", [0, 1, 2, 4, 8, 16, 32, 48, 63, 64])
def test_an_array_aliases_memory_exactly_where_it_begins_at_64_bytes(
    size: int, offset: int
) -> None:
    memory = np.zeros(size + 192, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    info = TensorInfo(Dtype.U8, (size,), (begin, begin + size))
    [array] = get_framework("jax").from_buffers(memory.data, {"w": info}, "cpu").values()
    assert (address(array) == memory.ctypes.data + begin) is (offset % 64 == 0)


@needs_maps
@pytest.mark.parametrize("kept", ["a", "b"])
def test_memory_lives_as_long_as_the_last_array_over_it(aligned: Path, kept: str) -> None:
    with safe_open(aligned, "jax", backend="mmap") as file:
        tensors = file.get_tensors()
    del file
    aligned_name = str(aligned)
    aligned.unlink()
    array = tensors[kept]
    del tensors
    gc.collect()
    assert aligned_name in Path("/proc/self/maps").read_text()
    assert np.array_equal(array, {"a": A, "b": B}[kept])
    del array
    gc.collect()
    assert aligned_name not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_giving_an_array_away_to_a_function_changes_no_other(aligned: Path, backend: Any) -> None:
    before = aligned.read_bytes()
    step = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    with safe_open(aligned, "jax", backend=backend) as file:
        first = file.get_tensor("a")
        second = file.get_tensor("a")
        rest = file.get_tensors()
        result = step(first)
        for _ in range(3):
            result = step(result)
        assert np.array_equal(second, A)
        assert np.array_equal(rest["a"], A)
        assert np.array_equal(rest["b"], B)
        assert np.array_equal(file.get_tensor("a"), A)
    assert aligned.read_bytes() == before


def test_updates_change_no_other_array(aligned: Path) -> None:
    first = load_file(aligned, backend="mmap")["a"]
    with safe_open(aligned, "jax", backend="mmap") as file:
        second, third = file.get_tensor("a"), file.get_tensor("a")
    changed = second.at[0].set(7)
    assert changed[0] == 7
    for array in (first, second, third):
        assert np.array_equal(array, A)


KERNELS: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x + x,
    "sum": lambda x: x.astype(jnp.float32).sum(),
    "max": lambda x: x.max(),
    "sort": jnp.sort,
    "matmul": lambda x: x[: x.size // 7 * 7].reshape(-1, 7).astype(jnp.float32) @ jnp.ones((7, 5)),
    "flip": lambda x: x[::-1],
}


@pytest.mark.parametrize("dtype", [np.int8, np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_give_on_borrowed_memory_what_they_give_on_their_own(
    tmp_path: Path, dtype: Any, kernel: str
) -> None:
    run = jax.jit(KERNELS[kernel])
    rng = np.random.default_rng(3)
    arrays = {str(n): rng.integers(0, 9, n).astype(dtype) for n in (7, 64, 65, 1000, 4099, 65_537)}
    safetensors_numpy.save_file(arrays, tmp_path / "model.safetensors", fsync=False)
    for backend in ("mmap", "pread"):
        for name, array in load_file(tmp_path / "model.safetensors", backend=backend).items():
            own = jnp.array(arrays[name], copy=True)
            assert np.array_equal(run(array), run(own))


def test_saving_borrows_the_memory_of_arrays_on_the_cpu() -> None:
    array = jnp.arange(1000.0)
    buffer = np.frombuffer(memoryview(get_framework("jax").to_buffer(array)), np.uint8)
    assert buffer.ctypes.data == address(array)
    del array
    gc.collect()
    assert np.array_equal(buffer.view(np.float32), np.arange(1000, dtype=np.float32))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_saving_over_the_file_that_the_arrays_are_mapped_from_keeps_both(
    aligned: Path, backend: Any
) -> None:
    tensors = load_file(aligned, backend=backend)
    given = dict(tensors)
    save_file({"new": tensors["a"] * 2, **tensors}, aligned)
    assert tensors == given
    assert np.array_equal(tensors["a"], A)
    loaded = load_file(aligned)
    assert np.array_equal(loaded["new"], A * 2)
    assert np.array_equal(loaded["a"], A)
    assert os.listdir(aligned.parent) == [aligned.name]


def test_a_dict_that_is_saved_is_not_changed() -> None:
    tensors: dict[str, Any] = {"a": jnp.ones(3), "b": np.ones(3)}
    before = dict(tensors)
    save(tensors)
    assert list(tensors) == list(before)
    assert all(tensors[name] is before[name] for name in before)


def test_arrays_are_placed_in_the_fast_way_and_the_public_one_gives_the_same(
    aligned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If this fails with a new version of JAX, loads are still right but slow for small tensors.
    assert placement._fast_put() is not None
    fast = {device: load_file(aligned, device) for device in (None, "cpu", "cpu:0")}
    monkeypatch.setattr(placement, "_fast_put", lambda: None)
    for device, expected in fast.items():
        slow = load_file(aligned, device)
        for name, array in expected.items():
            assert np.array_equal(slow[name], array)
            assert slow[name].sharding == array.sharding
            assert slow[name].committed == array.committed
            assert slow[name].weak_type == array.weak_type


def test_an_unknown_way_inside_of_jax_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_INTERNALS", "jax.no_such_module")
    assert placement._fast_put.__wrapped__() is None


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("device", [None, "cpu", "cpu:0"])
def test_a_load_while_a_function_is_traced_gives_values(
    aligned: Path, device: Any, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement._fast_put.cache_clear()  # as in a process that has loaded nothing
    if not fast:
        monkeypatch.setattr(placement, "_fast_put", lambda: None)
    kept: list[jax.Array] = []

    @jax.jit
    def function(x: jax.Array) -> jax.Array:
        kept.append(load_file(aligned, device)["a"])
        return kept[0] + x

    assert np.array_equal(function(jnp.ones(())), A + 1)
    assert np.array_equal(kept[0], A)
    assert (placement._fast_put() is not None) is fast


def test_one_file_may_be_loaded_by_many_threads_at_once(aligned: Path, packed: Path) -> None:
    paths = [aligned, packed] * 8
    with ThreadPoolExecutor(8) as pool:
        for loaded in pool.map(load_file, paths):
            assert np.array_equal(loaded["a"], A)
        with safe_open(packed, "jax", backend="pread") as file:
            for array in pool.map(file.get_tensor, ["a", "b"] * 8):
                assert np.array_equal(array, {SIZE: A, 1000: B}[array.size])


def test_threads_in_different_modes_do_not_disturb_each_other() -> None:
    data = safetensors_numpy.save({"w": np.array([2**40 + 1])})
    target = find_target("cpu")

    def narrow(_: int) -> Any:
        return jnp.asarray(np.zeros(1)).dtype

    def wide(_: int) -> Any:
        with jax.enable_x64(True):
            return int(load(data)["w"][0])

    with ThreadPoolExecutor(4) as pool:
        dtypes, values = pool.map(narrow, range(20)), pool.map(wide, range(20))
        assert set(values) == {2**40 + 1}
        assert set(dtypes) == {np.dtype(np.float32)}
    assert not target.committed


def test_importing_the_plugin_imports_no_jax() -> None:
    code = "import sys, safetensors_jax, safetensors_jax._plugin; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == b"False\n"
