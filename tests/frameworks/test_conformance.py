"""The plugin of this environment passes the conformance kit that third parties run on theirs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.frameworks.installed import INSTALLED

# NumPy, on which other plugins build, has an environment of its own.
OWN = [name for name in INSTALLED if name != "numpy"] or ["numpy"]


@pytest.mark.parametrize("name", OWN)
def test_the_plugin_conforms(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safetensors_core.testing", name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert "No check failed." in done.stdout
