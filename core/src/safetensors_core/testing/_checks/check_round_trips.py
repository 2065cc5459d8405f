"""Every dtype in every shape comes back bit for bit, and as the bytes that all plugins write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safetensors_core import (
    Dtype,
    Framework,
    UnsupportedDtypeError,
    load,
    load_file,
    safe_open,
    save,
    save_file,
)
from safetensors_core.testing.golden import golden_file, golden_hash, sha256
from safetensors_core.testing.observation import difference
from safetensors_core.testing.samples import bytes_of, data_of, make

LOSS = "the bytes that to_buffer gives are not those that from_buffers was given"


def test_a_tensor_comes_back_bit_for_bit(
    framework: Framework, dtype: Dtype, shape: tuple[int, ...]
) -> None:
    data = data_of(dtype, shape)
    tensor = make(framework, dtype, shape, bytearray(data))
    assert framework.is_tensor(tensor), "from_buffers gave no tensor"
    spec = framework.describe(tensor)
    assert (spec.dtype, spec.shape) == (dtype, shape), "describe: another dtype or shape"
    assert not difference(bytes_of(framework, tensor), data), LOSS


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_golden_file_keeps_its_bytes(
    framework: Framework, dtype: Dtype, backend: Any, tmp_path: Path
) -> None:
    path, again = tmp_path / "golden.safetensors", tmp_path / "again.safetensors"
    path.write_bytes(golden_file(dtype))
    tensors = load_file(path, framework, framework.devices()[0], backend=backend)
    save_file(tensors, again, {"dtype": dtype.value})
    assert not difference(again.read_bytes(), path.read_bytes()), (
        "the file was saved again with other bytes: see describe and to_buffer"
    )


def test_golden_bytes_keep_their_hash(framework: Framework, dtype: Dtype) -> None:
    data = golden_file(dtype)
    for given in (data, bytearray(data)):
        tensors = load(given, framework, framework.devices()[0])
        assert sha256(save(tensors, {"dtype": dtype.value})) == golden_hash(dtype), LOSS


def test_one_tensor_is_what_it_is_among_others(
    framework: Framework, dtype: Dtype, tmp_path: Path
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(dtype))
    with safe_open(path, framework, framework.devices()[0]) as file:
        for name, tensor in file.get_tensors().items():
            spec, data = framework.describe(tensor), bytes_of(framework, tensor)
            for one in (file.get_tensor(name), file.get_slice(name)[...]):
                same = framework.describe(one) == spec and bytes_of(framework, one) == data
                assert same, f"{name!r} is another tensor when it is read alone"


def test_names_come_in_the_order_of_the_file(framework: Framework, dtype: Dtype) -> None:
    names = list(load(golden_file(dtype), framework, framework.devices()[0]))
    assert names == sorted(names), "from_buffers or load changed the order of the names"


def test_a_dtype_that_is_not_declared_is_refused(
    framework: Framework, undeclared: Dtype, tmp_path: Path
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(undeclared))
    with pytest.raises(UnsupportedDtypeError, match=f"'empty'.*{undeclared.value}"):
        load_file(path, framework, framework.devices()[0])
    with (
        safe_open(path, framework, framework.devices()[0]) as file,
        pytest.raises(UnsupportedDtypeError, match="'odd'"),
    ):
        file.get_slice("odd")[0]
