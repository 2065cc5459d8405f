"""What the tests of the readers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import pytest

from safetensors_core.convert import StoredTensor
from safetensors_numpy.framework import NumpyFramework


@pytest.fixture(scope="session")
def content() -> Callable[[StoredTensor], tuple[npt.NDArray[Any], bytes]]:
    """Gives what a stored tensor holds, once it gave the same twice, whole and in chunks."""
    framework = NumpyFramework()

    def read(tensor: StoredTensor) -> tuple[npt.NDArray[Any], bytes]:
        array = tensor.read()
        data = bytes(framework.to_buffer(array))
        assert framework.describe(array) == tensor.spec
        assert bytes(framework.to_buffer(tensor.read())) == data
        if tensor.chunks is not None:
            assert b"".join(tensor.chunks()) == b"".join(tensor.chunks()) == data
        return array, data

    return read
