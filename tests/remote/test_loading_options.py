"""What loading can do besides, it does from URLs, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safetensors_core import load_file, load_into, save_file
from tests.remote.servers import Fault, RangeServer

TENSORS: dict[str, Any] = {f"w{i}": np.full(50_000, i, np.float32) for i in range(3)}
NBYTES = 600_000


@pytest.fixture
def url(server: RangeServer, files: Path) -> str:
    save_file(TENSORS, files / "model.safetensors")
    return server.url("model.safetensors")


def test_tensors_are_converted(url: str) -> None:
    loaded = load_file(url, dtype="F16", keys=["w1", "w2"])
    assert {name: (str(a.dtype), a[-1]) for name, a in loaded.items()} == {
        "w1": ("float16", 1),
        "w2": ("float16", 2),
    }


def test_tensors_that_exist_are_filled(url: str) -> None:
    reports: list[tuple[int, int]] = []
    tensors = {name: np.ones_like(array) for name, array in TENSORS.items()}
    strided = np.ones((50_000, 2), np.float32)[:, 0]
    result = load_into(
        tensors | {"w2": strided}, url, progress=lambda done, total: reports.append((done, total))
    )
    assert result == ([], [])
    assert all(np.array_equal(tensors[name], TENSORS[name]) for name in ("w0", "w1"))
    assert np.array_equal(strided, TENSORS["w2"])
    assert reports == [(400_000, NBYTES), (NBYTES, NBYTES)]


def test_who_fills_tensors_learns_that_they_may_be_filled_in_part(
    url: str, server: RangeServer
) -> None:
    tensors = {name: np.ones_like(array) for name, array in TENSORS.items()}
    # The header is read, and then the server has had enough.
    server.fail_first(None, *[Fault("status", 410)] * 20)
    with pytest.raises(OSError, match="may be filled in part"):
        load_into(tensors, url)
