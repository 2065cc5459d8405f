"""One framework, and one open file, serve several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Dtype, Framework, load, safe_open, save
from safetensors_core.testing.golden import golden_file, golden_hash, sha256
from safetensors_core.testing.samples import bytes_of

THREADS = 8


def test_threads_load_and_save_at_once(framework: Framework, dtype: Dtype) -> None:
    data = golden_file(dtype)

    def work(_: int) -> str:
        return sha256(save(load(data, framework, framework.devices()[0]), {"dtype": dtype.value}))

    with ThreadPoolExecutor(THREADS) as pool:
        assert set(pool.map(work, range(2 * THREADS))) == {golden_hash(dtype)}


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_threads_share_an_open_file(
    framework: Framework, dtype: Dtype, backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_file(dtype))
    with safe_open(path, framework, framework.devices()[0], backend=backend) as file:
        expected = [bytes_of(framework, file.get_slice("odd")[row]) for row in range(3)]

        def work(number: int) -> bool:
            whole = bytes_of(framework, file.get_tensor("odd"))
            part = bytes_of(framework, file.get_slice("odd")[number % 3])
            return whole == b"".join(expected) and part == expected[number % 3]

        with ThreadPoolExecutor(THREADS) as pool:
            assert all(pool.map(work, range(4 * THREADS)))
