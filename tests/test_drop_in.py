"""The examples of the modules that programs find as `safetensors`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


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
