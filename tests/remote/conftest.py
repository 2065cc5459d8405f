"""What the tests of remote files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from safetensors_core.sources import attempts
from tests.remote.servers import RangeServer


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder that `server` serves."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def server(files: Path) -> Iterator[RangeServer]:
    with RangeServer(files) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are noticed soon, and the next try follows at once."""
    monkeypatch.setenv("SAFETENSORS_REMOTE_TIMEOUT", "0.3")
    monkeypatch.setattr(attempts, "_FIRST_WAIT", 0.001)
