"""The examples of the modules that programs find as `safetensors`, and of their page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "user" / "drop-in.md"
# Without prompts: they install names, so each needs a process of its own.
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_drop_in_modules_run_under_the_names_of_the_reference() -> None:
    # In this process the name `safetensors` may already be the reference's.
    located = subprocess.run(
        [sys.executable, "-m", "safetensors_core.compat", "--path"],
        check=True,
        capture_output=True,
        text=True,
    )
    options = ["-q", "-p", "safetensors_core.compat.pytest_plugin", "--rootdir", str(ROOT)]
    options += ["-c", str(ROOT / "pyproject.toml"), "--confcutdir", str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--doctest-modules", located.stdout.strip()],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # One for each of the seven modules at the least, under the name that programs import.
    assert "skipped" not in done.stdout, done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 7


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_page_is_a_program_that_works(example: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 3
