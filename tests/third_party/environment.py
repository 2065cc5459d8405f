"""An environment in which core is installed from its wheel, and a third party's plugins beside it.

Nothing of this checkout can be imported there.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests import wheels

__all__ = ["COMMAND", "Environment"]

#: Arguments that run the command line, also in a layer, which has no programs of its own.
COMMAND = ("-c", "import sys; from safetensors_core.cli import main; sys.exit(main())")


class Environment:
    """A virtual environment, or a layer upon one.

    Attributes:
        folder: Where it lies.
        python: Its interpreter.
        work: An empty folder in which programs are run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = wheels.make_environment(folder)
        self.work = folder / "work"
        self.work.mkdir()

    @property
    def site(self) -> Path:
        """The folder of what is installed here."""
        return wheels.site_packages(self.folder)

    def layer(self, folder: Path) -> Environment:
        """Another environment, made at once, that sees what is installed here.

        What is installed there, nobody sees here: a test that breaks things needs a layer.
        """
        upper = Environment(folder)
        (upper.site / "below.pth").write_text(f"{self.site}\n", encoding="utf-8")
        return upper

    def install(
        self, *packages: str | Path, editable: bool = False, dependencies: bool = True
    ) -> None:
        """Install packages, in one run of pip.

        Args:
            *packages: Folders, of which wheels are built first, wheels, or requirements.
            editable: Whether to install folders as they are, for those who work on them.
            dependencies: Whether to install what they depend on, too.
        """
        options = [] if dependencies else ["--no-deps"]
        if editable:
            for package in packages:
                options += ["--editable", str(package)]
            wheels.install(self.python, *options)
            return
        folders = [package for package in map(Path, packages) if package.is_dir()]
        others = [str(package) for package in packages if not Path(package).is_dir()]
        with tempfile.TemporaryDirectory() as scratch:
            built = wheels.build(*folders, into=Path(scratch)) if folders else []
            wheels.install(self.python, *options, *built, *others)

    def run(
        self,
        *arguments: str | Path,
        status: int | None = 0,
        variables: dict[str, str] | None = None,
    ) -> str:
        """Run this environment's Python.

        Args:
            *arguments: What follows `python` on the command line.
            status: The exit status that it must have; any, if None.
            variables: Environment variables to set.

        Returns:
            Standard output and standard error, as they came.
        """
        done = self._run(arguments, variables, stderr=subprocess.STDOUT)
        if status is not None:
            assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}"
        return done.stdout

    def program(self, text: str, variables: dict[str, str] | None = None) -> str:
        """Run a program that must succeed.

        Args:
            text: Its source.
            variables: Environment variables to set.

        Returns:
            Standard output.
        """
        done = self._run(("-I", "-c", text), variables, stderr=subprocess.PIPE)
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _run(
        self, arguments: tuple[str | Path, ...], variables: dict[str, str] | None, *, stderr: int
    ) -> subprocess.CompletedProcess[str]:
        # What steers Python, pytest or us here must not do so there.
        steering = ("PYTHON", "PYTEST_", "SAFETENSORS_", "VIRTUAL_ENV")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(steering)}
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=self.work,
            env={**inherited, **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            check=False,
        )
