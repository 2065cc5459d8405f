"""What is written is what was described, and what others write of the same tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safetensors_core import (
    Dtype,
    Framework,
    TensorSpec,
    load,
    load_file,
    parse_header,
    save,
    save_file,
)
from safetensors_core.layout import lay_out
from safetensors_core.testing.observation import difference
from safetensors_core.testing.samples import GRID, bytes_of, data_of, make, shapes_of


def test_the_header_says_what_describe_said(
    framework: Framework, dtype: Dtype, shape: tuple[int, ...]
) -> None:
    tensor = make(framework, dtype, shape)
    spec = framework.describe(tensor)
    entry = parse_header(save({"w": tensor})).tensors["w"]
    assert (entry.dtype, entry.shape, entry.nbytes) == (spec.dtype, spec.shape, spec.nbytes)


def test_the_buffer_is_contiguous_and_as_long_as_described(
    framework: Framework, dtype: Dtype, shape: tuple[int, ...]
) -> None:
    tensor = make(framework, dtype, shape)
    nbytes = framework.describe(tensor).nbytes
    assert (nbytes == 0) == (0 in shape), f"describe: {nbytes} bytes for the shape {shape}"
    if nbytes == 0:  # core does not ask for its bytes
        return
    buffer = memoryview(framework.to_buffer(tensor))
    assert buffer.c_contiguous, "to_buffer must give contiguous bytes in C order"
    assert buffer.nbytes == nbytes, f"to_buffer gives {buffer.nbytes} bytes, describe {nbytes}"


def test_many_tensors_at_once_are_what_each_is_alone(framework: Framework, dtype: Dtype) -> None:
    shapes = [(8,), (16,), (5, 8)]
    tensors = [
        make(framework, dtype, shape, bytearray(data_of(dtype, shape, 8 * i)))
        for i, shape in enumerate(shapes)
    ]
    alone = [framework.describe(tensor) for tensor in tensors]
    assert framework.describe_all(tensors) == alone, "describe_all differs from describe"
    assert framework.describe_all([]) == [], "describe_all of no tensors must be empty"
    # All of them are kept until the last one is there: none is to be filled anew.
    buffers = list(framework.to_buffers(iter(tensors)))
    expected = [bytes_of(framework, tensor) for tensor in tensors]
    assert [memoryview(buffer).tobytes() for buffer in buffers] == expected, (
        "to_buffers gives other bytes than to_buffer, or changes a buffer that is still held: do "
        "not reuse one staging buffer"
    )


def test_a_file_has_the_bytes_that_every_plugin_writes(framework: Framework, dtype: Dtype) -> None:
    shapes = shapes_of(dtype)
    specs = {name: TensorSpec(dtype, shape) for name, shape in shapes.items()}
    beginning, infos = lay_out(specs, {"made by": "the kit"}, 8)
    data = {name: data_of(dtype, shapes[name], 4 * i) for i, name in enumerate(shapes)}
    expected = beginning + b"".join(data[name] for name in infos)
    tensors = {
        name: make(framework, dtype, shape, bytearray(data[name])) for name, shape in shapes.items()
    }
    assert not difference(save(tensors, {"made by": "the kit"}), expected)


def test_the_buffers_of_two_tensors_do_not_disturb_each_other(
    framework: Framework, dtype: Dtype
) -> None:
    shapes = [(8,), (16,), (5, 8)]
    expected = [data_of(dtype, shape, 8 * i) for i, shape in enumerate(shapes)]
    tensors = [
        make(framework, dtype, shape, bytearray(data))
        for shape, data in zip(shapes, expected, strict=True)
    ]
    buffers = [framework.to_buffer(tensor) for tensor in tensors]
    assert not difference(b"".join(buffers), b"".join(expected)), (
        "a buffer changed when the next one was asked for: do not reuse one staging buffer"
    )


def test_a_file_in_use_can_be_replaced_by_its_own_tensors(
    framework: Framework, dtype: Dtype, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    shapes = shapes_of(dtype)
    save_file({name: make(framework, dtype, shape) for name, shape in shapes.items()}, path)
    before = path.read_bytes()
    save_file(load_file(path, framework), path)
    assert not difference(path.read_bytes(), before)


def test_what_is_written_to_a_tensor_is_saved(framework: Framework, byte_dtype: Dtype) -> None:
    tensor = make(framework, byte_dtype, GRID)
    before = bytes_of(framework, tensor)
    write(tensor)
    row = len(before) // GRID[0]
    expected = before[row : 2 * row] + before[row:]
    assert not difference(bytes_of(framework, tensor), expected), (
        "to_buffer gives what the tensor held before it was written to"
    )


def test_what_is_written_to_a_tensor_changes_no_other(
    framework: Framework, byte_dtype: Dtype
) -> None:
    data = data_of(byte_dtype, GRID)
    made = {name: make(framework, byte_dtype, GRID) for name in "ab"}
    tensors = load(save(made), framework, framework.devices()[0])
    write(tensors["a"])
    other, saved = bytes_of(framework, tensors["b"]), bytes_of(framework, made["a"])
    assert not difference(other, data), "equal tensors of a file share memory"
    assert not difference(saved, data), "a loaded tensor shares memory with the saved"


def write(tensor: Any) -> None:
    """Copy the second row of a tensor over its first, where the framework can."""
    try:
        tensor[0] = tensor[1]
    # What a framework raises where tensors cannot be written to is its own.
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"writing to tensors: assignment to a row raises {type(error).__name__}")
