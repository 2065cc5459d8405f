"""Who owns the memory of a tensor, and that it lives as long as the tensor does."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Dtype, Framework, load, load_file, safe_open, save
from safetensors_core.testing.golden import golden_file, golden_hash, sha256
from safetensors_core.testing.observation import Borrowed, address, difference
from safetensors_core.testing.samples import bytes_of, data_of, make

SHAPE = (64, 256)
NOT_KEPT = (
    "from_buffers gave a tensor over memory that it does not keep: hold a reference to the buffer "
    "as long as the tensor lives"
)


def lent(framework: Framework, dtype: Dtype, shift: int = 0) -> tuple[Any, Borrowed]:
    """A tensor from memory that nobody else keeps."""
    memory = Borrowed(data_of(dtype, SHAPE), shift)
    tensor = make(framework, dtype, SHAPE, memory.view)
    memory.give_up()
    return tensor, memory


def follows(framework: Framework, dtype: Dtype, shift: int) -> bool:
    """Whether a tensor changes with the buffer that it was made from."""
    memory = Borrowed(data_of(dtype, SHAPE), shift)
    tensor = make(framework, dtype, SHAPE, memory.view)
    assert memory.view is not None
    memory.view[:] = bytes(len(memory.view))  # every element becomes 0
    return not any(bytes_of(framework, tensor))


def settle(framework: Framework, dtype: Dtype) -> None:
    """Use the framework once more: some release memory only then."""
    bytes_of(framework, make(framework, dtype, (8,)))
    gc.collect()


def test_a_loaded_tensor_lies_in_the_buffer_if_that_is_declared(
    framework: Framework, byte_dtype: Dtype
) -> None:
    # No better aligned than it must be.
    lies_in = follows(framework, byte_dtype, max(framework.alignment, byte_dtype.bits // 8))
    if framework.aliases_on_load:
        assert lies_in, (
            "aliases_on_load is declared, but from_buffers copies what begins at a multiple of "
            "alignment and of the item size"
        )
    else:
        assert not lies_in, "from_buffers gives tensors over the buffer: declare aliases_on_load"


def test_a_tensor_that_is_not_aligned_is_copied(framework: Framework, byte_dtype: Dtype) -> None:
    if framework.alignment <= byte_dtype.bits // 8:
        pytest.skip("alignment: none is declared beyond the item size")
    assert not follows(framework, byte_dtype, framework.alignment // 2), (
        f"alignment is {framework.alignment}, but a tensor lies in memory at a multiple of half "
        "of that: copy it, or declare the alignment that the framework needs"
    )


def test_a_loaded_tensor_keeps_the_buffer(framework: Framework, byte_dtype: Dtype) -> None:
    if not framework.aliases_on_load:
        pytest.skip("tensors over the buffer (aliases_on_load)")
    tensor, memory = lent(framework, byte_dtype)
    assert memory.held, NOT_KEPT
    assert not difference(bytes_of(framework, tensor), data_of(byte_dtype, SHAPE))


def test_the_buffer_is_released_with_the_last_tensor(
    framework: Framework, byte_dtype: Dtype
) -> None:
    tensor, memory = lent(framework, byte_dtype)
    bytes_of(framework, tensor)
    del tensor
    settle(framework, byte_dtype)
    assert not memory.held, "the buffer is kept although no tensor is left: memory leaks"


@pytest.mark.parametrize("shift", [1, 2, 4, 8, 40])
def test_a_tensor_at_any_address_is_loaded_right(
    framework: Framework, dtype: Dtype, shift: int
) -> None:
    tensor, memory = lent(framework, dtype, shift)
    found = bytes_of(framework, tensor)
    assert not difference(found, data_of(dtype, SHAPE)), f"{shift} bytes off: {memory}"


@pytest.mark.parametrize("begin", [1, 3, 8, 4096])
def test_a_tensor_begins_where_its_offsets_say(
    framework: Framework, dtype: Dtype, begin: int
) -> None:
    data = data_of(dtype, SHAPE)
    tensor = make(framework, dtype, SHAPE, bytearray(b"\xaa" * begin + data + b"\xaa" * 64), begin)
    moved = difference(bytes_of(framework, tensor), data)
    assert not moved, "data_offsets count from the buffer's first byte"


def test_a_buffer_that_is_read_only_is_never_written_to(
    framework: Framework, byte_dtype: Dtype
) -> None:
    data = data_of(byte_dtype, SHAPE)
    given = bytes(bytearray(data))
    tensor = make(framework, byte_dtype, SHAPE, given)
    changed = difference(bytes_of(framework, tensor), data)
    assert not changed, "a read-only buffer gives another tensor"
    with contextlib.suppress(Exception):  # most frameworks refuse it, each in its own way
        tensor[0] = tensor[1]
    changed = difference(given, data)
    assert not changed, "a tensor over a read-only buffer can be written to: copy the buffer"


def test_to_buffer_gives_the_memory_of_the_tensor_if_that_is_declared(
    framework: Framework, byte_dtype: Dtype
) -> None:
    memory = Borrowed(data_of(byte_dtype, SHAPE))
    tensor = make(framework, byte_dtype, SHAPE, memory.view)
    first = framework.to_buffer(tensor)
    if framework.aliases_on_save:
        same = address(first) == address(framework.to_buffer(tensor))
        assert same, "aliases_on_save is declared, but to_buffer copies"
        return
    other = framework.to_buffer(make(framework, byte_dtype, SHAPE))
    assert address(other) != address(first), "to_buffer gives all tensors the same memory"
    # The same memory twice may also be a copy that the tensor keeps.
    assert address(first) != memory.address, (
        "to_buffer gives the tensor's own memory: declare aliases_on_save"
    )


def test_the_bytes_of_a_tensor_outlive_it(framework: Framework, byte_dtype: Dtype) -> None:
    tensor, memory = lent(framework, byte_dtype)
    assert memory.held or not framework.aliases_on_load, NOT_KEPT
    buffer = framework.to_buffer(tensor)
    borrowed = address(buffer) == memory.address
    del tensor
    settle(framework, byte_dtype)
    assert memory.held or not borrowed, "to_buffer gave memory that it does not keep"
    assert not difference(memoryview(buffer).tobytes(), data_of(byte_dtype, SHAPE))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_outlive_their_file(
    framework: Framework, dtype: Dtype, backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(dtype))
    file = safe_open(path, framework, framework.devices()[0], backend=backend)
    tensors = file.get_tensors()
    part = file.get_slice("large")[1:3]
    file.close()
    del file
    path.unlink()
    gc.collect()
    load_others = [load(golden_file(dtype), framework) for _ in range(3)]
    assert sha256(save(tensors, {"dtype": dtype.value})) == golden_hash(dtype), (
        "tensors changed after their file was closed and removed"
    )
    del load_others
    whole, shape = bytes_of(framework, tensors["large"]), framework.describe(tensors["large"]).shape
    row = len(whole) // shape[0]
    changed = difference(bytes_of(framework, part), whole[row : 3 * row])
    assert not changed, "a slice changed with its file closed"


def test_saving_and_loading_change_nothing_that_was_given(
    framework: Framework, dtype: Dtype, tmp_path: Path
) -> None:
    data = bytearray(golden_file(dtype))
    load(data, framework)
    assert not difference(data, golden_file(dtype)), "load wrote to the bytes that it was given"
    path = tmp_path / "golden.safetensors"
    path.write_bytes(data)
    tensors = load_file(path, framework)
    before = dict(tensors)
    save(tensors)
    assert list(tensors) == list(before), "save changed the names in the caller's dict"
    assert all(tensors[name] is before[name] for name in before), "save exchanged a tensor"
    assert not difference(path.read_bytes(), data)
