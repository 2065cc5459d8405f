"""A file keeps its bytes on the way through any framework that holds its dtype."""

from __future__ import annotations

import importlib
import json
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
    safe_open,
)
from safetensors_core.testing.golden import HASHES, golden_file, sha256
from tests.frameworks.installed import INSTALLED

EXPECTED = json.loads(HASHES.read_text("utf-8"))
# Frameworks that compute in 32 bits say so when they load more: that is tested with them.
pytestmark = pytest.mark.filterwarnings("ignore:.*jax_enable_x64:UserWarning")


@pytest.fixture(params=INSTALLED)
def framework(request: pytest.FixtureRequest) -> Framework:
    return get_framework(request.param)


@pytest.fixture
def plugin(framework: Framework) -> ModuleType:
    return importlib.import_module(f"safetensors_{framework.name}")


@pytest.mark.parametrize("dtype", Dtype)
def test_the_golden_file_is_the_one_that_all_environments_use(dtype: Dtype) -> None:
    assert sha256(golden_file(dtype)) == EXPECTED[dtype.value]


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
    assert sha256(again.read_bytes()) == EXPECTED[dtype.value]


@pytest.mark.parametrize("dtype", Dtype)
def test_bytes_keep_their_bytes(framework: Framework, plugin: ModuleType, dtype: Dtype) -> None:
    data = golden_file(dtype)
    if dtype not in framework.dtypes:
        with pytest.raises(UnsupportedDtypeError):
            plugin.load(data)
        return
    for given in (data, bytearray(data)):
        assert sha256(plugin.save(plugin.load(given), {"dtype": dtype.value})) == EXPECTED[dtype]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("dtype", Dtype)
def test_tensors_and_slices_that_are_read_one_by_one_keep_their_bytes(
    framework: Framework, plugin: ModuleType, dtype: Dtype, backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(dtype))
    with safe_open(path, framework, backend=backend) as file:
        if dtype not in framework.dtypes:
            with pytest.raises(UnsupportedDtypeError):
                file.get_slice("odd")
            return
        for name in file:
            one, sliced = file.get_tensor(name), file.get_slice(name)[...]
            assert plugin.save({name: one}) == plugin.save({name: sliced})
        rows = [plugin.save({"row": file.get_slice("odd")[row]}) for row in range(3)]
    nbytes = file.header.tensors["odd"].nbytes // 3
    begin = file.header.data_start + file.header.tensors["odd"].data_offsets[0]
    assert b"".join(row[-nbytes:] for row in rows) == path.read_bytes()[begin : begin + 3 * nbytes]
