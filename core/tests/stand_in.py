"""Processes that see core, and beside it what a test puts there: a stand-in for the reference."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from core.tests.plugin_site import Site

__all__ = ["FRAMEWORK_MODULES", "ProgramSite"]

# What each module of the reference imports first, and the name of its plugin.
FRAMEWORK_MODULES = {
    "flax": ("jax", "jax"),
    "mlx": ("mlx.core", "mlx"),
    "numpy": ("numpy", "numpy"),
    "paddle": ("paddle", "paddle"),
    "tensorflow": ("tensorflow", "tensorflow"),
    "torch": ("torch", "torch"),
}
PACKAGE = """
__version__ = "9.9.9"

class safe_open:
    pass

def serialize(tensor_dict, metadata=None):
    return b"the stand-in"
"""
MODULE = """
from safetensors import safe_open

def load_file(filename):
    return "the stand-in"
"""


class ProgramSite(Site):
    """A folder of installed packages, and Python programs that see them."""

    def reference(self) -> None:
        """Install a package that is found as the reference would be."""
        package = self.folder / "safetensors"
        package.mkdir()
        (package / "__init__.py").write_text(PACKAGE)
        (package / "torch.py").write_text(MODULE)
        self.install("safetensors", {}, "9.9.9")

    def python(
        self,
        *arguments: str,
        status: int = 0,
        isolated: bool = True,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with arguments, expecting an exit status.

        Isolated, it sees nothing that is installed elsewhere.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SAFETENSORS_COMPAT")
        }
        done = subprocess.run(
            [sys.executable, *(["-S"] if isolated else []), *arguments],
            env={**inherited, "PYTHONPATH": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def check(self, program: str) -> None:
        """Run a program that asserts what it promises."""
        self.python("-c", textwrap.dedent(program))

    def compat(self, *arguments: str | Path, status: int = 0) -> str:
        """What `python -m safetensors_core.compat` prints."""
        words = [str(argument) for argument in arguments]
        done = self.python("-m", "safetensors_core.compat", *words, status=status)
        return done.stdout if status == 0 else done.stderr
