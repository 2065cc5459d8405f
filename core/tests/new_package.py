"""What `safetensors-core new-plugin` refuses, and what it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safetensors_core.cli import main

__all__ = ["contents", "refused"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line on standard error of a command that fails."""
    assert main(["new-plugin", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"safetensors-core: [^\n]+\n", captured.err)
    assert captured.err[:-1].isprintable()
    return captured.err


def contents(folder: Path) -> set[str]:
    """The files in a folder, by their paths in it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found}
