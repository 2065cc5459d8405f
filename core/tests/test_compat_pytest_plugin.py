"""`pytest -p safetensors_core.compat.pytest_plugin`: a test suite that is served by ours."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from core.tests.stand_in import ProgramSite
from safetensors_core.compat import is_installed

SUITE = """
import subprocess, sys
import conftest
import safetensors

def test_side():
    assert conftest.safetensors is safetensors
    assert safetensors.serialize({}) != b"the stand-in"

def test_children():
    program = "import safetensors; sys.exit(safetensors.serialize({}) == b'the stand-in')"
    subprocess.run([sys.executable, "-c", "import sys; " + program], check=True)
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder of tests whose `conftest` imports the package too."""
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "conftest.py").write_text("import safetensors")
    (folder / "test_suite.py").write_text(SUITE)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> ProgramSite:
    """A place where something else is found as `safetensors`."""
    folder = tmp_path / "site"
    folder.mkdir()
    site = ProgramSite(folder)
    site.reference()
    return site


def report(site: ProgramSite, suite: Path, *options: str, status: int = 0, strict: str = "") -> str:
    arguments = ["-m", "pytest", "--rootdir", str(suite), "-p", "no:cacheprovider", *options]
    environment = {"PYTEST_ADDOPTS": "", "SAFETENSORS_COMPAT_STRICT": strict}
    # pytest itself is installed elsewhere.
    return site.python(
        *arguments, str(suite), status=status, isolated=False, environment=environment
    ).stdout


def test_a_suite_and_the_processes_it_starts_find_ours(site: ProgramSite, suite: Path) -> None:
    printed = report(site, suite, "-p", "safetensors_core.compat.pytest_plugin")
    assert "2 passed" in printed
    assert "safetensors: served by safetensors_core.compat\n" in printed


def test_without_the_plugin_a_suite_finds_what_is_installed(site: ProgramSite, suite: Path) -> None:
    printed = report(site, suite, status=1)
    assert "2 failed" in printed
    assert "served by" not in printed


def test_the_report_says_that_the_run_is_strict(site: ProgramSite, suite: Path) -> None:
    printed = report(site, suite, "-p", "safetensors_core.compat.pytest_plugin", strict="1")
    assert "safetensors: served by safetensors_core.compat, strictly\n" in printed


def test_importing_the_plugin_installs_nothing() -> None:
    before = is_installed()
    importlib.import_module("safetensors_core.compat.pytest_plugin")
    assert is_installed() is before
