"""Whose memory a tensor borrows, how long it lives, and that nothing changes under it."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import safetensors_numpy
from safetensors_core import TensorInfo, get_framework, read_header, safe_open
from safetensors_core.framework import Framework
from safetensors_tensorflow import load, load_file, save, save_file

SIZE = 200_000
LARGE = 1 << 19
KINDS = [
    np.bool_,
    np.uint8,
    np.int8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.uint64,
    np.float16,
    np.float32,
    np.float64,
    np.complex64,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
]


def address(tensor: tf.Tensor) -> int:
    """Where the first element of a tensor lies."""
    # Without dimensions, and of some types, a tensor would give a number instead of its memory.
    array = np.asarray(tf.reshape(tensor, (-1,)))
    return int(array.__array_interface__["data"][0])


def address_of(buffer: Any) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])


@pytest.fixture
def framework() -> Framework:
    return get_framework("tensorflow")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which every tensor lies at a multiple of 64 bytes."""
    tensors = {"a": tf.range(SIZE, dtype=tf.float64), "b": tf.ones(256, tf.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors", alignment=64)
    return tmp_path / "model.safetensors"


@pytest.fixture
def odd_path(tmp_path: Path) -> Path:
    """A file in which no tensor lies at a multiple of 64 bytes."""
    path = tmp_path / "odd.safetensors"
    tensors = {"a": np.arange(float(SIZE)), "b": np.ones(256, ml_dtypes.bfloat16)}
    note = ""
    while True:
        safetensors_numpy.save_file(tensors, path, {"note": note})
        if read_header(path).data_start % 64 == 8:
            return path
        note += "x"


def test_tensors_of_a_mapped_file_lie_in_one_map_as_in_the_file(path: Path) -> None:
    with safe_open(path, "tf", backend="mmap") as file:
        offsets = {n: info.data_offsets[0] for n, info in file.header.tensors.items()}
        first, again = file.get_tensors(), file.get_tensors()
    assert address(first["b"]) - address(first["a"]) == offsets["b"] - offsets["a"]
    assert address(again["a"]) == address(first["a"])


@pytest.mark.parametrize("kind", ["aligned", "odd", "bytes"])
def test_tensors_that_were_read_lie_in_the_memory_that_they_were_read_into(
    path: Path, odd_path: Path, kind: str
) -> None:
    if kind == "bytes":
        tensors = load(odd_path.read_bytes())
    else:
        tensors = load_file(path if kind == "aligned" else odd_path, backend="pread")
    # Copies by TensorFlow would lie anywhere.
    assert address(tensors["b"]) - address(tensors["a"]) == SIZE * 8


def test_tensors_that_were_read_twice_are_apart(path: Path) -> None:
    with safe_open(path, "tf", backend="pread") as file:
        first, again = file.get_tensor("a"), file.get_tensor("a")
    assert address(first) != address(again)


def test_an_aligned_slice_of_a_mapped_file_borrows_the_map(path: Path) -> None:
    with safe_open(path, "tf", backend="mmap") as file:
        whole, part = file.get_tensor("a"), file.get_slice("a")[8:20]
        other = file.get_slice("a")[1:20]
    assert address(part) == address(whole) + 64
    assert part.numpy().tolist() == list(range(8, 20))
    assert address(other) != address(whole) + 8
    assert other.numpy().tolist() == list(range(1, 20))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_every_tensor_is_where_kernels_can_use_it(odd_path: Path, backend: Any) -> None:
    with safe_open(odd_path, "tf", backend=backend) as file:
        tensors = [*file.get_tensors().values(), file.get_slice("a")[3:], file.get_slice("b")[1]]
    for tensor in tensors:
        assert address(tensor) % 64 == 0
    assert tensors[0].numpy().tolist() == list(range(SIZE))


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_alias_aligned_memory_and_only_that(framework: Framework, kind: Any) -> None:
    memory = np.zeros(8192, np.uint8)
    start = -address_of(memory) % 64
    itemsize = np.dtype(kind).itemsize
    code = framework.describe(tf.constant(np.ones(1, kind))).dtype
    for shape in ((), (1,), (7,), (3, 5), (100,)):
        for shift in (0, 64, 128, 1, 2, 4, 8, 16, 32, 48, 65):
            nbytes = int(np.prod(shape)) * itemsize
            begin = start + shift
            info = TensorInfo(code, shape, (begin, begin + nbytes))
            tensor = framework.from_buffers(memory.data, {"w": info}, "cpu")["w"]
            assert (address(tensor) == address_of(memory) + begin) == (shift % 64 == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_compute_on_borrowed_memory(framework: Framework, kind: Any) -> None:
    memory = np.zeros(1 << 16, np.uint8)
    start = -address_of(memory) % 64
    code = framework.describe(tf.constant(np.ones(1, kind))).dtype
    for size in (1, 2, 3, 7, 16, 33, 64):
        for shift in (0, 64, 192, 8, 3):
            array = (np.arange(size * size).reshape(size, size) % 3).astype(kind)
            begin = start + shift
            memory[begin : begin + array.nbytes] = array.reshape(-1).view(np.uint8)
            info = TensorInfo(code, array.shape, (begin, begin + array.nbytes))
            tensor = framework.from_buffers(memory.data, {"w": info}, "cpu")["w"]
            same = tf.constant(array)
            wide, expected = tf.cast(tensor, tf.float64), tf.cast(same, tf.float64)
            assert np.array_equal(wide, expected)
            assert np.array_equal(tf.matmul(wide, wide), tf.matmul(expected, expected))
            for operation in (
                tf.transpose,
                lambda x: tf.concat([x, x], 0),
                lambda x: x[1:, ::2],
                lambda x: tf.gather(x, [0, len(x) - 1]),
            ):
                assert np.asarray(operation(tensor)).tobytes() == operation(same).numpy().tobytes()
            if np.dtype(kind).kind in "fic" and np.dtype(kind).isbuiltin == 1:
                assert np.array_equal(tensor + tensor, same + same)
                assert np.array_equal(tf.reduce_sum(tensor, 0), tf.reduce_sum(same, 0))
            if kind in (np.float32, np.float64):
                assert np.array_equal(tf.matmul(tensor, tensor), tf.matmul(same, same))
                assert np.array_equal(tf.nn.softmax(tensor), tf.nn.softmax(same))


def test_variables_that_borrow_leave_the_memory_as_it_is_when_they_change(path: Path) -> None:
    before = path.read_bytes()
    with safe_open(path, "tf", backend="mmap") as file:
        kept, given = file.get_tensor("a"), file.get_tensor("a")
    variable = tf.Variable(given)
    assigned = tf.Variable(tf.zeros(SIZE, tf.float64))
    assigned.assign(given)
    del given
    gc.collect()

    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
    def compiled() -> None:
        variable.assign_add(tf.ones(SIZE, tf.float64))

    @tf.function  # type: ignore[untyped-decorator]
    def traced() -> None:
        assigned.assign_sub(tf.ones(SIZE, tf.float64))

    compiled()
    traced()
    assigned[:2].assign([7.0, 7.0])
    assigned.scatter_nd_update([[2]], [9.0])
    assert variable.numpy()[:3].tolist() == [1, 2, 3]
    assert assigned.numpy()[:4].tolist() == [7, 7, 9, 2]
    assert kept.numpy().tolist() == list(range(SIZE))
    assert path.read_bytes() == before


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_outlive_the_file_object_and_the_file(path: Path, backend: Any) -> None:
    with safe_open(path, "tf", backend=backend) as file:
        whole = file.get_tensor("a")
        part = file.get_slice("a")[-8:]
    del file
    path.unlink()
    gc.collect()
    assert whole.numpy().tolist() == list(range(SIZE))
    assert part.numpy().tolist() == list(range(SIZE - 8, SIZE))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its maps")
def test_the_map_ends_with_the_last_tensor_over_it(path: Path, odd_path: Path) -> None:
    def mapped(path: Path) -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    tensors = load_file(path, backend="mmap")
    kept = tensors["b"]
    del tensors
    gc.collect()
    assert mapped(path)
    del kept
    gc.collect()
    assert not mapped(path)
    copies = load_file(odd_path, backend="mmap")
    gc.collect()
    assert not mapped(odd_path)
    assert float(copies["a"][-1]) == SIZE - 1


def test_loading_writable_bytes_borrows_what_is_aligned() -> None:
    written = save({"w": tf.zeros(3, tf.uint8)}, alignment=64)
    spare = np.zeros(len(written) + 128, np.uint8)
    for shift, borrowed in ((0, True), (8, False)):
        begin = -address_of(spare) % 64 + shift
        data = spare[begin : begin + len(written)]
        data[:] = np.frombuffer(written, np.uint8)
        tensor = load(data.data)["w"]
        data[-3:] = 7
        assert tensor.numpy().tolist() == ([7, 7, 7] if borrowed else [0, 0, 0])


def test_loading_read_only_bytes_copies_them() -> None:
    data = save({"w": tf.zeros(300_000, tf.uint8)}, alignment=64)
    tensor = load(data)["w"]
    assert not address_of(data) <= address(tensor) < address_of(data) + len(data)
    assert address(tensor) % 64 == 0


@pytest.mark.parametrize("make", [tf.constant, tf.Variable])
@pytest.mark.parametrize("kind", KINDS)
def test_saving_borrows_the_memory_of_a_tensor(framework: Framework, make: Any, kind: Any) -> None:
    tensor = make(np.ones((5, 3)).astype(kind))
    held = tensor if make is tf.constant else tensor.read_value()
    assert address_of(framework.to_buffer(tensor)) == address(held)


def test_what_is_being_saved_does_not_change_with_the_variable(framework: Framework) -> None:
    variable = tf.Variable(tf.zeros(4))
    buffer = framework.to_buffer(variable)
    variable.assign_add(tf.ones(4))
    assert bytes(buffer) == bytes(16)


@pytest.mark.parametrize("fsync", [True, False])
def test_saving_over_the_file_that_the_tensors_are_mapped_from_keeps_both(
    path: Path, fsync: bool
) -> None:
    tensors = load_file(path, backend="mmap")
    save_file({"b": tensors["b"], "a": tensors["a"]}, path, fsync=fsync)
    assert tensors["a"].numpy().tolist() == list(range(SIZE))
    assert load_file(path)["a"].numpy().tolist() == list(range(SIZE))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("aligned", [True, False])
def test_many_threads_load_from_one_open_file(
    path: Path, odd_path: Path, backend: Any, aligned: bool
) -> None:
    start = threading.Barrier(8)
    with (
        safe_open(path if aligned else odd_path, "tf", backend=backend) as file,
        ThreadPoolExecutor(8) as pool,
    ):

        def work(name: str) -> Any:
            start.wait()
            return [file.get_tensor(name).numpy(), file.get_slice(name)[5:].numpy()]

        results = list(pool.map(work, ["a", "b"] * 4))
    for whole, part in results[::2]:
        assert whole.tolist() == list(range(SIZE))
        assert part.tolist() == list(range(5, SIZE))
    for whole, part in results[1::2]:
        assert (len(whole), len(part)) == (256, 251)


def test_thousands_of_small_tensors_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {f"w{i:04}": np.full(3, i, np.int16) for i in range(3000)}
    safetensors_numpy.save_file(arrays, path)
    for backend in ("mmap", "pread"):
        loaded = load_file(path, backend=backend)
        assert list(loaded) == list(arrays)
        assert [int(tensor[2]) for tensor in loaded.values()] == list(range(3000))
