"""Run an unmodified program with our implementation behind the names of the reference.

`python -m safetensors_core.compat program.py ARGUMENTS`, `-m module ARGUMENTS`, or `--path` to
print the folder for `PYTHONPATH` or a type checker's search path.
"""

from __future__ import annotations

import argparse
import builtins
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder, SourceFileLoader, SourcelessFileLoader
from importlib.util import module_from_spec
from types import CodeType, ModuleType

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
    # Where Python puts what `PYTHONPATH` names: behind the folder of the program. Debuggers and
    # the like put that of their own program in the first place.
    first = [sys.path.pop(0)] if _searches_beside() else []
    install_for_children()
    install(strict=given.strict or None)
    if given.module is not None:
        sys.path[:0] = first
        sys.argv[1:] = rest
        runpy.run_module(given.module, run_name="__main__", alter_sys=True)
        return
    sys.argv[:] = rest
    path = os.path.abspath(rest[0])
    inside = PathFinder.find_spec("__main__", [path])  # of a folder or an archive
    if inside is None and os.path.isdir(path):
        parser.error(f"there is no module __main__ in {rest[0]!r}")
    if inside is not None:
        sys.path.insert(0, path)
        _run(module_from_spec(inside))
    else:
        sys.path[:0] = [os.path.dirname(os.path.realpath(path)) for _ in first]
        _run(_script(path))


def _searches_beside() -> bool:
    """Whether Python searches the folder of a program, and for `-m` the current one, first."""
    return not getattr(sys.flags, "safe_path", sys.flags.isolated)


def _script(path: str) -> ModuleType:
    """The module of a program that is one file."""
    module = ModuleType("__main__")
    kind = SourcelessFileLoader if path.endswith(".pyc") else _Script
    vars(module).update(__file__=path, __cached__=None, __loader__=kind("__main__", path))
    return module


class _Script(SourceFileLoader):
    """Loads a program from its source alone: Python keeps no compiled copy of one."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _run(module: ModuleType) -> None:
    """Run a program. Its module stays, for threads and exit handlers that outlive this call."""
    vars(module)["__builtins__"] = builtins
    sys.modules["__main__"] = module
    vars(module)["__loader__"].exec_module(module)


def _own_options(words: Sequence[str]) -> int:
    """How many words come before the program, or before the arguments of a module."""
    for position, word in enumerate(words):
        if word.startswith("-m"):
            return position + (2 if word == "-m" else 1)
        if not word.startswith("-"):
            return position
    return len(words)


if __name__ == "__main__":
    main()
