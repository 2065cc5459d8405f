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
from safetensors_core.compat.settings import FSYNC, STRICT

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
    words = sys.argv[1:] if arguments is None else list(arguments)
    own = _own_options(words)
    parser = argparse.ArgumentParser(
        "python -m safetensors_core.compat",
        usage="%(prog)s [-h] [--strict] [--path] PROGRAM [ARGUMENTS ...]\n"
        "       %(prog)s [-h] [--strict] -m MODULE [ARGUMENTS ...]",
        description="Run an unmodified program with safetensors-core behind `import safetensors`, "
        "in its process and in those that it starts.",
        epilog=f"{STRICT}=1 is --strict for all; {FSYNC}=1 makes saves wait for the disk.",
        allow_abbrev=False,
    )
    parser.add_argument("--strict", action="store_true", help="refuse what the reference refuses")
    parser.add_argument("--path", action="store_true", help="print the folder of our modules, end")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module")
    given = parser.parse_args(words[:own])
    rest = words[own:]
    if given.path:
        print(FOLDER)  # noqa: T201  # what was asked for
        return
    if given.module is None and not rest:
        parser.error("name a program, or a module with -m")
    if given.module is None and not os.path.exists(rest[0]):
        parser.error(f"there is no file {rest[0]!r}")
    if given.strict:
        os.environ[STRICT] = "1"
    install_for_children()
    install()
    if given.module is not None:
        sys.argv[1:] = rest
        runpy.run_module(given.module, run_name="__main__", alter_sys=True)
        return
    # As Python does for a program: what lies beside it can be imported, the folder where one
    # happens to be cannot. `-m` has put that one first.
    here = sys.path.index(FOLDER) + 1
    sys.path[here : here + 1] = [os.path.dirname(os.path.realpath(rest[0]))]
    sys.argv[:] = rest
    runpy.run_path(rest[0], run_name="__main__")


def _own_options(words: Sequence[str]) -> int:
    """How many words come before the program, or before the arguments of a module."""
    for position, word in enumerate(words):
        if word == "-m":
            return position + 2
        if not word.startswith("-"):
            return position
    return len(words)


if __name__ == "__main__":
    main()
