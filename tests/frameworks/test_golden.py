"""A file keeps its bytes on the way through the functions of a plugin's own module."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from safetensors_core import (
    Dtype,
    Framework,
    UnsupportedDtypeError,
    get_framework,
    read_header,
)
from safetensors_core.testing.golden import golden_file, golden_hash, sha256
from tests.frameworks.installed import INSTALLED

# Frameworks that compute in 32 bits say so when they load more: that is tested with them.
pytestmark = pytest.mark.filterwarnings("ignore:.*jax_enable_x64:UserWarning")


@pytest.fixture(params=INSTALLED)
def framework(request: pytest.FixtureRequest) -> Framework:
    return get_framework(request.param)


@pytest.fixture
def plugin(framework: Framework) -> ModuleType:
    return importlib.import_module(f"safetensors_{framework.name}")


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("dtype", Dtype)
def test_a_file_keeps_its_bytes(
    framework: Framework, plugin: ModuleType, dtype: Dtype, backend: Any, tmp_path: Path
) -> None:
    path, again = tmp_path / "golden.safetensors", tmp_path / "again.safetensors"
    path.write_bytes(golden_file(dtype))
    if dtype not in framework.dtypes:
        with pytest.raises(UnsupportedDtypeError):
            plugin.load_file(path, backend=backend)
        return
    tensors = plugin.load_file(path, backend=backend)
    assert all(framework.is_tensor(tensor) for tensor in tensors.values())
    plugin.save_file(tensors, again, read_header(path).metadata)
    assert sha256(again.read_bytes()) == golden_hash(dtype)


@pytest.mark.parametrize("dtype", Dtype)
def test_bytes_keep_their_bytes(framework: Framework, plugin: ModuleType, dtype: Dtype) -> None:
    data = golden_file(dtype)
    if dtype not in framework.dtypes:
        with pytest.raises(UnsupportedDtypeError):
            plugin.load(data)
        return
    for given in (data, bytearray(data)):
        assert sha256(plugin.save(plugin.load(given), {"dtype": dtype.value})) == golden_hash(dtype)
