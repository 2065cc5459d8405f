"""A file that breaks a rule of the format is rejected with the code of that rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Framework, HeaderError, load, load_file
from safetensors_core.testing.malformed import MALFORMED, Malformed


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_a_malformed_file_is_rejected(
    framework: Framework, case: Malformed, tmp_path: Path
) -> None:
    path = tmp_path / "malformed.safetensors"
    path.write_bytes(case.file())
    with pytest.raises(HeaderError, match=r"malformed\.safetensors") as raised:
        load_file(path, framework, framework.devices()[0])
    assert raised.value.reason is case.reason
    with pytest.raises(HeaderError) as raised:
        load(case.file(), framework, framework.devices()[0])
    assert raised.value.reason is case.reason


@pytest.mark.parametrize("size", [0, 1, 7, 8])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_file_without_a_header_is_rejected(
    framework: Framework, size: int, backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(b"\xff" * size)
    with pytest.raises(HeaderError, match=r"short\.safetensors"):
        load_file(path, framework, framework.devices()[0], backend=backend)
