"""Environments in which only wheels are installed, as users have them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ROOT", "build", "install", "make_environment", "run", "site_packages"]

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path = ROOT, variables: Mapping[str, str] = os.environ) -> str:
    """Run a program that must succeed, and return what it prints on standard output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        # The path is relative because pip splits the variable at white space.
        env={**variables, "PIP_CONSTRAINT": "tests/constraints.txt"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_environment(folder: Path) -> Path:
    """Make an environment in which nothing is installed, and return its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Where an environment keeps what is installed in it."""
    return Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(folder)}))


def install(python: Path, *arguments: str | Path) -> None:
    """Run `pip install` on an environment, with the pip of this process."""
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *arguments)


def build(*folders: Path, into: Path) -> list[Path]:
    """Build the wheels of folders into an empty one. They need hatchling, which is here."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", into)
    # pip refuses to pin what such a build uses, and the environment pins it already.
    variables = {k: v for k, v in os.environ.items() if k != "PIP_BUILD_CONSTRAINT"}
    run(sys.executable, "-m", "pip", "wheel", *options, *folders, variables=variables)
    return sorted(into.glob("*.whl"))
