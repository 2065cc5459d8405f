"""The same tests pass on the reference and on ours, each in a process of its own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from safetensors_core.compat import FOLDER

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/compat/behaviour", "tests/compat/reference_pages")
PLUGIN = ("-p", "safetensors_core.compat.pytest_plugin")
SIDES: dict[str, tuple[str, ...]] = {"the reference": (), "ours": PLUGIN}


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A run of both, side by side: each spends most of its time importing frameworks."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = {
        side: subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *FOLDERS],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for side, options in SIDES.items()
    }
    yield started
    for run in started.values():
        if run.poll() is None:
            run.kill()
            run.communicate()


def folder_of_the_reference() -> str:
    """Where its distribution lies, asked without importing it."""
    for found in importlib.metadata.distributions(name="safetensors"):
        folder = str(found.locate_file("safetensors"))
        if not folder.startswith(FOLDER):
            return folder
    raise AssertionError("the reference is not installed")


@pytest.mark.parametrize("side", SIDES)
def test_what_programs_rely_on_holds(side: str, runs: dict[str, subprocess.Popen[str]]) -> None:
    output, _ = runs[side].communicate()
    assert runs[side].returncode == 0, output[-20_000:]
    folder = os.path.join(FOLDER, "safetensors") if side == "ours" else folder_of_the_reference()
    assert f"import safetensors: {folder}{os.sep}__init__.py" in output.splitlines()
