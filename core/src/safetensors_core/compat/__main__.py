"""Run an unmodified program with our implementation behind the names of the reference.

`python -m safetensors_core.compat program.py ARGUMENTS`, `-m module ARGUMENTS`, or `--path` to
print the folder for `PYTHONPATH` or a type checker's search path.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence

from safetensors_core.compat.activation import FOLDER, install, install_for_children
from safetensors_core.compat.settings import STRICT

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a program, a module, or Python itself with our names installed.

    Args:
        arguments: What follows ``python -m safetensors_core.compat``; the process's own by
            default.

    Example:
        >>> main(["--path"])
        /.../safetensors_core/compat/drop_in
    """
    parser = argparse.ArgumentParser(
        "python -m safetensors_core.compat",
        description="Run an unmodified program with safetensors-core behind `import safetensors`, "
        "in its process and in those that it starts.",
        epilog=f"{STRICT}=1 is --strict for all; SAFETENSORS_COMPAT_FSYNC=1 makes saves wait for "
        "the disk.",
        allow_abbrev=False,
    )
    parser.add_argument("--strict", action="store_true", help="refuse what the reference refuses")
    parser.add_argument("--path", action="store_true", help="print the folder of our modules, end")
    parser.add_argument("-m", dest="module", action="store_true", help="PROGRAM names a module")
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help="a file, or with -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    given = parser.parse_args(arguments)
    if given.path:
        print(FOLDER)  # noqa: T201  # what was asked for
        return
    if given.program is None:
        parser.error("name a program, or a module with -m")
    if given.strict:
        os.environ[STRICT] = "1"
    install_for_children()
    install()
    sys.argv[:] = [given.program, *given.arguments]
    if given.module:
        runpy.run_module(given.program, run_name="__main__", alter_sys=True)
        return
    if not os.path.exists(given.program):
        parser.error(f"there is no file {given.program!r}")
    # As Python does: what lies beside a program can be imported.
    sys.path.insert(1, os.path.dirname(os.path.realpath(given.program)))
    runpy.run_path(given.program, run_name="__main__")


if __name__ == "__main__":
    main()
