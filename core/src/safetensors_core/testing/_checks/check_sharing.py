"""`storage_key` tells views of one memory from tensors of their own."""

from __future__ import annotations

from typing import Any

import pytest

from safetensors_core import Dtype, Framework
from safetensors_core.testing.observation import address
from safetensors_core.testing.samples import GRID, make


@pytest.fixture
def tensor(framework: Framework, some_dtype: Dtype) -> Any:
    found = make(framework, some_dtype, GRID)
    if framework.storage_key(found) is None:
        pytest.skip("views of shared memory: storage_key gives None")
    return found


def test_a_tensor_has_one_key(framework: Framework, tensor: Any) -> None:
    key = framework.storage_key(tensor)
    assert key == framework.storage_key(tensor)
    assert hash(key) == hash(framework.storage_key(tensor))


def test_a_view_has_the_key_of_its_tensor(framework: Framework, tensor: Any) -> None:
    try:
        views = [tensor[1:], tensor[::2]]
    # What a framework raises where it has no such view is its own.
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"views: indexing raises {type(error).__name__}")
    if not all(map(framework.is_tensor, views)) or not lies_in(framework, views[0], tensor):
        pytest.skip("views: an index gives a tensor of its own, or to_buffer does not alias")
    for view in views:
        assert framework.storage_key(view) == framework.storage_key(tensor), (
            "a view has another storage_key than its tensor"
        )


def lies_in(framework: Framework, part: Any, whole: Any) -> bool:
    """Whether the memory of a tensor is within that of another, as far as `to_buffer` shows it."""
    begin, place = (address(framework.to_buffer(tensor)) for tensor in (whole, part))
    return begin <= place < begin + framework.describe(whole).nbytes


def test_tensors_of_their_own_have_keys_of_their_own(
    framework: Framework, tensor: Any, some_dtype: Dtype
) -> None:
    other = make(framework, some_dtype, GRID)
    assert framework.storage_key(tensor) != framework.storage_key(other), (
        "two tensors that share no memory have one storage_key"
    )
