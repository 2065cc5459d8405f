"""Whose memory a tensor borrows, how long it lives, and that the file never changes under it."""

from __future__ import annotations

import copy
import gc
import io
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from safetensors_core import get_framework, safe_open
from safetensors_paddle import load, load_file, save, save_file

SIZE = 200_000
ALIASED = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "float8_e4m3fn",
    "float8_e5m2",
]
# Paddle on the CPU has few operations on the types of 8 and 16 bits.
OPERATIONS_ON_HALVES: list[Callable[[Any], Any]] = [
    lambda t: t.astype("float32").matmul(t.astype("float32").T),
    lambda t: t[paddle.to_tensor([3, 1])].astype("float32"),
    lambda t: paddle.concat([t, t]).astype("float32"),
    lambda t: t.T.clone().astype("float32"),
]
OPERATIONS: list[Callable[[Any], Any]] = [
    *OPERATIONS_ON_HALVES,
    lambda t: t + t,
    lambda t: t * t,
    lambda t: t.sum(),
    lambda t: t.astype("float32").mean(axis=0),
    lambda t: paddle.where(t > 0, t, -t),
    lambda t: paddle.nn.functional.softmax(t.astype("float32")),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a large tensor, whose pages are only read when they are touched."""
    tensors = {
        "a": paddle.arange(SIZE, dtype="float32"),
        "b": paddle.arange(5).astype("uint8"),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def address_of(memory: Any) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


@pytest.mark.parametrize("dtype", ALIASED)
@pytest.mark.parametrize("shape", [[], [1], [3], [2, 5]])
def test_tensors_of_every_dtype_borrow_writable_memory(dtype: str, shape: list[int]) -> None:
    tensors = {
        "w": paddle.ones(shape).astype(dtype),
        "x": paddle.ones([3]).astype(dtype),
    }
    data = bytearray(save(tensors))
    loaded = load(data)
    begin, end = address_of(data), address_of(data) + len(data)
    for tensor in loaded.values():
        assert begin < tensor.data_ptr() < end
    assert loaded["x"].data_ptr() - loaded["w"].data_ptr() == loaded["w"].element_size() * int(
        np.prod(shape)
    )


def test_tensors_of_a_mapped_file_lie_in_one_map_as_in_the_file(path: Path) -> None:
    with safe_open(path, "paddle", backend="mmap") as file:
        offsets = {n: info.data_offsets[0] for n, info in file.header.tensors.items()}
        first, again = file.get_tensors(), file.get_tensors()
    distance = first["b"].data_ptr() - first["a"].data_ptr()
    assert distance == offsets["b"] - offsets["a"]
    assert again["a"].data_ptr() == first["a"].data_ptr()


def test_tensors_of_a_file_that_was_read_lie_in_one_buffer(path: Path) -> None:
    loaded = load_file(path, backend="pread")
    assert loaded["b"].data_ptr() - loaded["a"].data_ptr() == 4 * SIZE


def test_a_slice_without_gaps_borrows_the_map_and_one_with_gaps_is_packed(path: Path) -> None:
    with safe_open(path, "paddle", backend="mmap") as file:
        whole, part = file.get_tensor("a"), file.get_slice("a")[10:20]
        packed = file.get_slice("a")[10:20:2]
    assert part.data_ptr() == whole.data_ptr() + 40
    assert packed.is_contiguous()
    assert packed.tolist() == [10, 12, 14, 16, 18]
    packed.fill_(0)
    assert part.tolist() == list(range(10, 20))


def test_tensors_of_a_file_that_was_read_own_memory_apart_from_each_other(path: Path) -> None:
    with safe_open(path, "paddle", backend="pread") as file:
        first, again = file.get_tensor("a"), file.get_tensor("a")
    first.zero_()
    assert again[-1].item() == SIZE - 1


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_are_writable_and_writing_does_not_reach_the_file(path: Path, backend: Any) -> None:
    before = path.read_bytes()
    loaded = load_file(path, backend=backend)
    loaded["a"].add_(paddle.ones([SIZE]))
    loaded["b"][0] = 100
    assert loaded["a"][:2].tolist() == [1, 2]
    assert loaded["b"].tolist() == [100, 1, 2, 3, 4]
    assert path.read_bytes() == before
    assert load_file(path, backend=backend)["b"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.cast_("float64"),
        lambda tensor: tensor.add_(paddle.ones([3])),
        lambda tensor: tensor.fill_(7.0),
        lambda tensor: tensor.zero_(),
        lambda tensor: tensor.__setitem__(slice(None), 9.0),
        lambda tensor: tensor.set_value(paddle.ones([3])),
        lambda tensor: tensor.scale_(3.0),
        lambda tensor: tensor.reshape_([3, 1]),
        lambda tensor: paddle.assign(paddle.ones([3]), tensor),
    ],
)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_an_operation_in_place_leaves_the_neighbours_as_they_are(
    tmp_path: Path, change: Any, backend: Any
) -> None:
    # Casting a slice of a larger tensor in place writes over what follows it in Paddle.
    numbers = {name: paddle.to_tensor([1.0, 2.0, 3.0]) for name in "abc"}
    path = tmp_path / "model.safetensors"
    save_file(numbers, path)
    before = path.read_bytes()
    loaded = load_file(path, backend=backend)
    change(loaded["b"])
    assert [loaded["a"].tolist(), loaded["c"].tolist()] == [[1, 2, 3], [1, 2, 3]]
    assert path.read_bytes() == before


def test_a_change_of_one_tensor_does_not_count_as_a_change_of_another() -> None:
    # Views of one tensor share their count of changes, by which backward() finds stale values.
    loaded = load(bytearray(save({"a": paddle.ones([3]), "b": paddle.full([3], 2.0)})))
    trained = paddle.ones([3])
    trained.stop_gradient = False
    loss = (trained * loaded["b"]).sum()
    loaded["a"].add_(paddle.ones([3]))
    loss.backward()
    assert trained.grad.tolist() == [2, 2, 2]


def test_a_loaded_tensor_can_be_trained_in_place(path: Path) -> None:
    before = path.read_bytes()
    weight = load_file(path, backend="mmap")["a"]
    weight.stop_gradient = False
    optimizer = paddle.optimizer.SGD(learning_rate=0.5, parameters=[weight])
    (weight * 2).sum().backward()
    optimizer.step()
    assert weight[:3].tolist() == [-1, 0, 1]
    assert path.read_bytes() == before


def test_a_parameter_set_from_a_loaded_tensor_has_memory_of_its_own(path: Path) -> None:
    loaded = load_file(path, backend="mmap")["a"]
    layer = paddle.nn.Linear(SIZE // 2, 2)
    layer.weight.set_value(loaded.reshape([SIZE // 2, 2]))
    layer.weight.set_value(layer.weight * 0)
    assert loaded[-1].item() == SIZE - 1


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_outlive_the_file_object_and_the_file(path: Path, backend: Any) -> None:
    with safe_open(path, "paddle", backend=backend) as file:
        whole = file.get_tensor("a")
        part = file.get_slice("a")[-2:]
    del file
    path.unlink()
    gc.collect()
    assert np.array_equal(whole.numpy(), np.arange(SIZE, dtype=np.float32))
    assert part.tolist() == [SIZE - 2, SIZE - 1]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its maps")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_map_ends_with_the_last_tensor_over_it(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: paddle.ones([1000]).astype(dtype) for name in "ab"}, path)

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


def test_a_tensor_s_memory_is_its_own_bytes_only(path: Path) -> None:
    loaded = load_file(path, backend="mmap")
    assert loaded["b"]._holder_size() == 5
    stream = io.BytesIO()
    paddle.save(loaded["b"], stream)
    assert len(stream.getvalue()) < 10_000
    copied = copy.deepcopy(loaded["b"])
    assert copied.tolist() == [0, 1, 2, 3, 4]
    assert copied.data_ptr() != loaded["b"].data_ptr()


def test_loading_writable_bytes_borrows_them_and_keeps_them() -> None:
    data = bytearray(save({"w": paddle.zeros([3], dtype="uint8")}))
    tensor = load(data)["w"]
    tensor.fill_(7)
    assert data[-3:] == b"\7\7\7"
    with pytest.raises(BufferError):
        data.extend(b"more")
    del tensor
    gc.collect()
    data.extend(b"more")
    assert data.endswith(b"\7\7\7more")


def test_loading_read_only_bytes_copies_them() -> None:
    data = save({"w": paddle.zeros([3], dtype="uint8")})
    load(data)["w"].fill_(7)
    assert data[-3:] == b"\0\0\0"


@pytest.mark.parametrize("dtype", ALIASED)
def test_saving_takes_the_memory_of_a_contiguous_tensor_as_it_is(dtype: str) -> None:
    framework: Any = get_framework("paddle")
    whole = paddle.ones([4, 3]).astype(dtype)
    for tensor in (whole, whole[1:], whole[2], load(bytearray(save({"w": whole})))["w"]):
        assert address_of(framework.to_buffer(tensor)) == tensor.data_ptr()


def test_saving_a_view_leaves_it_a_view() -> None:
    # Paddle's `contiguous()` does not: it gives the tensor that it is called on new memory.
    whole = paddle.zeros([2, 3], dtype="uint8")
    turned = whole.T
    assert save({"w": turned}).endswith(bytes(6))
    whole.fill_(7)
    assert turned.tolist() == [[7, 7]] * 3
    assert not turned.is_contiguous()


def test_the_buffer_of_a_tensor_keeps_it_alive() -> None:
    tensor = paddle.full([1000], 7, dtype="uint8")
    buffer = get_framework("paddle").to_buffer(tensor)
    del tensor
    gc.collect()
    others = [paddle.zeros([1000], dtype="uint8") for _ in range(100)]
    assert bytes(buffer) == b"\7" * 1000
    assert len(others) == 100


@pytest.mark.parametrize("fsync", [True, False])
def test_saving_over_the_file_that_the_tensors_are_mapped_from_keeps_both(
    path: Path, fsync: bool
) -> None:
    tensors = load_file(path, backend="mmap")
    tensors["b"][0] = 100
    save_file({"new": tensors["a"] * 2, **tensors}, path, fsync=fsync)
    expected = np.arange(SIZE, dtype=np.float32)
    assert np.array_equal(tensors["a"].numpy(), expected)
    loaded = load_file(path)
    assert np.array_equal(loaded["new"].numpy(), expected * 2)
    assert np.array_equal(loaded["a"].numpy(), expected)
    assert loaded["b"].tolist() == [100, 1, 2, 3, 4]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_many_threads_load_and_release_at_once(tmp_path: Path, backend: Any) -> None:
    expected = {f"t{i}": np.full([i % 7, 3], i, np.float32) for i in range(600)}
    path = tmp_path / "model.safetensors"
    save_file({n: paddle.to_tensor(array) for n, array in expected.items()}, path)

    def total(_: int) -> float:
        with safe_open(path, "paddle", backend=backend) as file:
            each = sum(file.get_tensor(name).numpy().sum() for name in file)
            return float(each + sum(t.numpy().sum() for t in file.get_tensors().values()))

    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(total, range(16)))
    assert totals == [2 * sum(float(array.sum()) for array in expected.values())] * 16


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bfloat16"])
@pytest.mark.parametrize("padding", range(0, 64, 8))
def test_paddle_computes_on_borrowed_memory_wherever_it_begins(dtype: str, padding: int) -> None:
    numbers = np.random.default_rng(padding).integers(-9, 9, (33, 17))
    own = paddle.to_tensor(numbers).astype(dtype)
    data = save({"w": own})
    memory = bytearray(64 + len(data))
    memory[padding : padding + len(data)] = data
    borrowed = load(memoryview(memory)[padding : padding + len(data)])["w"]
    assert address_of(memory) < borrowed.data_ptr() < address_of(memory) + len(memory)
    for operation in OPERATIONS if dtype != "bfloat16" else OPERATIONS_ON_HALVES:
        assert np.array_equal(operation(borrowed).numpy(), operation(own).numpy())


def test_importing_the_plugin_imports_no_paddle() -> None:
    code = """
import sys, safetensors_paddle, safetensors_paddle._plugin
from safetensors_core import list_plugins
list_plugins()
print('paddle' in sys.modules, 'numpy' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == b"False False\n"


def test_loading_and_saving_say_nothing_of_their_own(path: Path) -> None:
    code = """
import sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
from safetensors_paddle import load_file, save_file
warnings.simplefilter("error")
save_file(load_file(sys.argv[1]), sys.argv[1])
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
