"""`python -m benchmarks peers`: peers in folders of their own, beside the environment."""

from __future__ import annotations

import shutil
import subprocess
import sys

from benchmarks.sides import SIDES, Side, find

__all__ = ["install_peers"]


def install_peers() -> int:
    """Install each peer that the environment has not, without what it depends on.

    PyTorch and the other frameworks have to be those of the environment, so that all sides make
    the same tensors.

    Returns:
        Exit status: 0, whichever of them could be installed; a line says it for each.
    """
    for side in SIDES:
        if not side.install:
            continue
        found = find(side)
        if found.missing is None:
            where = "in a folder of its own" if found.folder else "in the environment"
            print(f"{side.name}: {found.version} {where}", flush=True)
        else:
            print(f"{side.name}: {_install(side)}", flush=True)
    return 0


def _install(side: Side) -> str:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--upgrade", "--no-deps", "--target", str(side.folder), *side.install]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return "installed in a folder of its own"
    shutil.rmtree(side.folder, ignore_errors=True)
    return f"not installed: {(done.stderr.strip() or 'pip failed').splitlines()[-1]}"
