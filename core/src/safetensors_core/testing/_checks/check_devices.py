"""Every device that the plugin names takes tensors and gives them back; no other does."""

from __future__ import annotations

from typing import Any

import pytest

from safetensors_core import Dtype, Framework, InvalidInputError, load, load_file, save
from safetensors_core.testing.golden import golden_file, golden_hash, sha256


def test_a_tensor_comes_back_from_the_device(
    framework: Framework, dtype: Dtype, device: Any
) -> None:
    tensors = load(golden_file(dtype), framework, device)
    assert all(framework.is_tensor(tensor) for tensor in tensors.values())
    assert sha256(save(tensors, {"dtype": dtype.value})) == golden_hash(dtype)


def test_the_host_is_a_device(framework: Framework, some_dtype: Dtype) -> None:
    tensors = load(golden_file(some_dtype), framework, "cpu")
    assert sha256(save(tensors, {"dtype": some_dtype.value})) == golden_hash(some_dtype)


@pytest.mark.parametrize("wrong", ["no such device", 3.5], ids=repr)
def test_a_device_that_there_is_not_is_refused(
    framework: Framework, some_dtype: Dtype, wrong: Any, tmp_path: Any
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(some_dtype))
    with pytest.raises(InvalidInputError):
        load_file(path, framework, wrong)
