"""The same tests pass on the reference and on ours, each in a process of its own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safetensors_core.compat import FOLDER

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/compat/behaviour", "tests/compat/reference_pages")
PLUGIN = ("-p", "safetensors_core.compat.pytest_plugin")
SIDES = {"the reference": (), "ours": PLUGIN}


def folder_of_the_reference() -> str:
    """Where its distribution lies, asked without importing it."""
    for found in importlib.metadata.distributions(name="safetensors"):
        folder = str(found.locate_file("safetensors"))
        if not folder.startswith(FOLDER):
            return folder
    raise AssertionError("the reference is not installed")


@pytest.mark.parametrize("side", SIDES)
def test_what_programs_rely_on_holds(side: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *SIDES[side], *FOLDERS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    folder = FOLDER + os.sep + "safetensors" if side == "ours" else folder_of_the_reference()
    assert f"import safetensors: {folder}{os.sep}__init__.py" in done.stdout.splitlines()
