"""Arrays sharded over several devices, and what of a file is read for them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("many_devices.py")
# Its cases, read and not imported: this process's JAX has other devices.
CASES = [
    element.id
    for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8")))
    if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "CASES"
    for element in getattr(node.value, "elts", [])
]


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    """What became of each case in a process with eight devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_with_eight_devices(results: dict[str, str], case: str) -> None:
    assert not results[case], results[case]


def test_all_cases_have_run(results: dict[str, str]) -> None:
    assert list(results) == CASES
