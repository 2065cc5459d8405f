"""Whose memory an array has, what a save copies, and that nobody's memory changes under him."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from safetensors_core import exchange, get_framework, safe_open
from safetensors_mlx import load, load_file, save, save_file

LARGE = 4 << 20
GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def address(buffer: Any) -> int:
    """Where a contiguous buffer, or an evaluated array, begins."""
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with an array of many pages, and one of a few bytes."""
    arrays = {"a": mx.arange(LARGE // 4, dtype=mx.float32), "b": mx.arange(5, dtype=mx.uint8)}
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def assert_as_saved(loaded: dict[str, mx.array]) -> None:
    assert mx.array_equal(loaded["a"], mx.arange(LARGE // 4, dtype=mx.float32)).item()
    assert loaded["b"].tolist() == [0, 1, 2, 3, 4]


def test_mlx_itself_takes_no_memory_of_the_cpu() -> None:
    # The reason why loading copies: should this change, it need not any more.
    memory = np.zeros(1 << 20, np.uint8)
    page = memory[-memory.ctypes.data % 16384 :][:16384]
    if mx.metal.is_available():
        pytest.skip("Metal can take whole pages, which a file's tensors are not")
    with pytest.raises(ValueError, match="without a copy"):
        mx.from_dlpack(page, copy=False)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_each_array_of_a_file_owns_its_memory(path: Path, backend: Any) -> None:
    with safe_open(path, "mlx", backend=backend) as file:
        first, again = file.get_tensors(), file.get_tensors()
    for name in first:
        np.array(first[name], copy=False).fill(1)
    assert_as_saved(again)
    assert_as_saved(load_file(path))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_arrays_of_bytes_in_memory_are_copies(path: Path, kind: Any) -> None:
    data = kind(path.read_bytes())
    loaded = load(data)
    if kind is bytearray:
        data[:] = bytes(len(data))
        data.clear()  # impossible as long as anybody uses its memory
    assert_as_saved(loaded)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its maps")
def test_a_mapped_file_is_unmapped_once_it_is_loaded(path: Path) -> None:
    loaded = load_file(path, backend="mmap")
    with safe_open(path, "mlx", backend="mmap") as file:
        part = file.get_slice("a")[-2:]
    del file
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()
    path.unlink()
    assert_as_saved(loaded)
    assert part.tolist() == [LARGE // 4 - 2, LARGE // 4 - 1]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_memory_is_released_with_each_array(path: Path, backend: Any) -> None:
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory()
    loaded = load_file(path, backend=backend)
    assert mx.get_active_memory() >= before + LARGE
    del loaded["a"]
    assert mx.get_active_memory() < before + LARGE


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_changing_an_array_changes_neither_the_file_nor_its_neighbours(
    path: Path, backend: Any
) -> None:
    before = path.read_bytes()
    loaded = load_file(path, backend=backend)
    loaded["a"] += 1
    loaded["b"][0] = 9
    mx.eval(loaded)
    assert loaded["b"].tolist() == [9, 1, 2, 3, 4]
    assert loaded["a"][:2].tolist() == [1, 2]
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", get_framework("mlx").dtypes.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)])
def test_a_contiguous_array_is_saved_without_a_copy(dtype: mx.Dtype, shape: Any) -> None:
    array = mx.zeros(shape, dtype=dtype, stream=mx.cpu)
    mx.eval(array)
    buffer = get_framework("mlx").to_buffer(array)
    assert address(buffer) == address(array)


def test_rows_of_a_larger_array_are_saved_without_a_copy() -> None:
    array = mx.array(GRID)
    rows = array[1:]
    mx.eval(rows)
    assert address(get_framework("mlx").to_buffer(rows)) == address(array) + 48


STRIDED: dict[str, tuple[Callable[[mx.array], mx.array], Callable[[Any], Any]]] = {
    "transposed": (lambda a: a.T, lambda n: n.T),
    "permuted": (lambda a: a.transpose(1, 2, 0), lambda n: n.transpose(1, 2, 0)),
    "column": (lambda a: a[:, :, 1], lambda n: n[:, :, 1]),
    "every second": (lambda a: a[..., ::2], lambda n: n[..., ::2]),
    "backwards": (lambda a: a[::-1, :, ::-1], lambda n: n[::-1, :, ::-1]),
    "broadcast": (
        lambda a: mx.broadcast_to(a[0, 0], (3, 4)),
        lambda n: np.broadcast_to(n[0, 0], (3, 4)),
    ),
    "broadcast scalar": (
        lambda a: mx.broadcast_to(a[1, 1, 1], (2, 2)),
        lambda n: np.full((2, 2), n[1, 1, 1]),
    ),
    "overlapping": (
        lambda a: mx.as_strided(a, (3, 4), (1, 1)),
        lambda n: np.lib.stride_tricks.as_strided(n, (3, 4), (4, 4)),
    ),
    "one element": (lambda a: a[1:, 2:, 3:], lambda n: n[1:, 2:, 3:]),
    "none": (lambda a: a[:, 2:2], lambda n: n[:, 2:2]),
    "lazy": (lambda a: a + a * 2, lambda n: n + n * 2),
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float64, mx.uint8], ids=str)
@pytest.mark.parametrize("case", STRIDED)
def test_arrays_of_any_strides_are_saved_in_order(case: str, dtype: mx.Dtype) -> None:
    ours, numpys = STRIDED[case]
    with mx.stream(mx.cpu):
        array = ours(mx.array(GRID).astype(dtype))
        loaded: Any = load(save({"w": array}))["w"].astype(mx.float32)
    expected = numpys(GRID)
    assert loaded.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(memoryview(loaded)), expected)


def test_a_buffer_keeps_its_bytes_whatever_becomes_of_the_array() -> None:
    array = mx.arange(1 << 18, dtype=mx.float32)
    mx.eval(array)
    buffer = memoryview(get_framework("mlx").to_buffer(array))
    array += 1
    array[5] = 7
    mx.eval(array)
    del array
    gc.collect()
    mx.eval([mx.ones(1 << 18) for _ in range(4)])
    np.testing.assert_array_equal(np.frombuffer(buffer, "f4"), np.arange(1 << 18, dtype="f4"))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_saving_over_the_file_that_was_loaded_keeps_both(path: Path, backend: Any) -> None:
    loaded = load_file(path, backend=backend)
    save_file({"new": loaded["a"] * 2, **loaded}, path)
    assert_as_saved(loaded)
    again = load_file(path)
    assert_as_saved(again)
    assert mx.array_equal(again["new"], loaded["a"] * 2).item()
    assert os.listdir(path.parent) == [path.name]


def test_neither_save_nor_load_changes_the_dict() -> None:
    array = mx.arange(6).reshape(2, 3).T
    arrays = {"b": array, "a": array}
    save(arrays)
    assert list(arrays) == ["b", "a"]
    assert arrays["a"] is arrays["b"] is array
    assert array.shape == (3, 2)


def test_exchange_with_numpy_lends_memory_in_one_direction_and_copies_in_the_other() -> None:
    array = mx.array([1.0, 2.0])
    lent = exchange({"w": array}, "numpy")["w"]
    assert lent.ctypes.data == address(array)
    taken = exchange({"w": lent}, "mlx")["w"]
    lent[0] = 5
    assert taken.tolist() == [1, 2]


def test_importing_the_plugin_imports_no_mlx() -> None:
    code = "import sys, safetensors_mlx, safetensors_mlx._plugin; print('mlx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == b"False\n"


def test_strided_arrays_can_be_saved_in_any_thread() -> None:
    array = mx.array(GRID).T
    mx.eval(array)
    with ThreadPoolExecutor(3) as pool:
        files = list(pool.map(lambda _: save({"w": array}), range(6)))
    assert set(files) == {save({"w": array})}
    np.testing.assert_array_equal(np.array(load(files[0])["w"]), GRID.T)
