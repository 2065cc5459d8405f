"""`storage_key` tells views of one memory from tensors of their own."""

from __future__ import annotations

from typing import Any

import pytest

from safetensors_core import Dtype, Framework
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
    for index in (slice(1, None), slice(None, None, 2)):
        try:
            view = tensor[index]
        # What a framework raises where it has no such view is its own.
        except Exception as error:  # noqa: BLE001
            pytest.skip(f"views: indexing raises {type(error).__name__}")
        if not framework.is_tensor(view) or framework.storage_key(view) is None:
            pytest.skip("views: an index gives a tensor of its own")
        assert framework.storage_key(view) == framework.storage_key(tensor), (
            "a view has another storage_key than its tensor"
        )


def test_tensors_of_their_own_have_keys_of_their_own(
    framework: Framework, tensor: Any, some_dtype: Dtype
) -> None:
    other = make(framework, some_dtype, GRID)
    assert framework.storage_key(tensor) != framework.storage_key(other), (
        "two tensors that share no memory have one storage_key"
    )
