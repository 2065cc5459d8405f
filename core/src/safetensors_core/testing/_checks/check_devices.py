"""Every device that the plugin names takes tensors and gives them back; no other does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Dtype, Framework, InvalidInputError, load, load_file, safe_open, save
from safetensors_core.testing.golden import golden_file, golden_hash, sha256
from safetensors_core.testing.observation import difference
from safetensors_core.testing.samples import bytes_of


def test_at_least_the_host_is_listed(framework: Framework) -> None:
    assert framework.devices(), "devices() gives none: list at least the host"


def test_a_tensor_comes_back_from_the_device(
    framework: Framework, dtype: Dtype, device: Any
) -> None:
    tensors = load(golden_file(dtype), framework, device)
    assert all(framework.is_tensor(tensor) for tensor in tensors.values())
    assert sha256(save(tensors, {"dtype": dtype.value})) == golden_hash(dtype)


def test_a_slice_lies_where_its_tensor_does(
    framework: Framework, sized_dtype: Dtype, device: Any, tmp_path: Path
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(sized_dtype))
    with safe_open(path, framework, device) as file:
        whole, part = file.get_tensor("odd"), file.get_slice("odd")[1:]
    data = bytes_of(framework, whole)
    other = difference(bytes_of(framework, part), data[len(data) // 3 :])
    assert not other, "[1:] selects other elements"
    for attribute in ("device", "place"):  # as far as tensors show it
        assert getattr(part, attribute, None) == getattr(whole, attribute, None), (
            "index leaves its result on another device than from_buffers"
        )


def test_the_host_is_a_device(framework: Framework, some_dtype: Dtype) -> None:
    try:
        tensors = load(golden_file(some_dtype), framework, "cpu")
    except InvalidInputError as error:
        pytest.fail(f"'cpu' is what users get who pass no device, so it must be taken: {error}")
    assert sha256(save(tensors, {"dtype": some_dtype.value})) == golden_hash(some_dtype)


@pytest.mark.parametrize("wrong", ["no such device", 3.5], ids=repr)
def test_a_device_that_there_is_not_is_refused(
    framework: Framework, some_dtype: Dtype, wrong: Any, tmp_path: Path
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(some_dtype))
    with pytest.raises(InvalidInputError):
        load_file(path, framework, wrong)
    with pytest.raises(InvalidInputError), safe_open(path, framework, wrong) as file:
        file.get_slice("odd")[0]
