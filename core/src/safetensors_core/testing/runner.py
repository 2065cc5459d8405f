"""The command that runs the checks on one plugin."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

__all__ = ["main"]

_CHECKS = Path(__file__).with_name("_checks")
_NEEDED = ("hypothesis", "pytest")
_ID = re.compile(r"check_\w+\.py(::|$)")
_USAGE = """\
usage: python -m safetensors_core.testing NAME [--xfails FILE] [ARGUMENT ...]

Check that a plugin keeps the contract.

  NAME           the plugin, by a name that it is installed under
  --xfails FILE  checks that are known to fail, one id a line; a text behind # is a comment.
                 One that passes, or that there is not, is a failure
  ARGUMENT       for pytest: -x, -k slices, -p MODULE, or the ids of single checks

Exit status: 0 all checks passed, 1 some failed, 2 interrupted, or no plugin was named, 3 the
interpreter died in a check, 4 the plugin or an argument cannot be used, 5 no check was chosen.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a plugin, in a process of its own.

    Args:
        arguments: The plugin's name and what follows it; the process's own by default.

    Returns:
        The exit status: 0 all checks passed, 1 some failed, 2 interrupted, or no plugin was
        named, 3 the interpreter died in a check, 4 the plugin or an argument cannot be used,
        5 no check was chosen.

    Example:
        >>> main([])
        2
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_USAGE)
        return 0
    if not arguments or arguments[0].startswith("-"):
        return _refuse("which plugin? Give its name first", _USAGE.partition("\n")[0])
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return _refuse(
            f"{' and '.join(missing)} cannot be imported",
            'Try: pip install "safetensors-core[testing]"',
        )
    name, *rest = arguments
    # Ids are relative to the folder of the checks, wherever the command runs.
    rest = [str(_CHECKS / word) if _ID.match(word) else word for word in rest]
    chosen = any(word.startswith(str(_CHECKS)) for word in rest)
    command = [sys.executable, "-m", "pytest", "-c", str(_CHECKS / "pytest.ini")]
    command += ["--confcutdir", str(_CHECKS), f"--framework={name}"]
    command += ["-p", "safetensors_core.testing.pytest_plugin"]
    command += rest if chosen else [*rest, str(_CHECKS)]
    status = _run(command)
    if status < 0:
        # The report died with it. Up to the first failure it may come through.
        sys.stderr.write("The interpreter died. Once more, up to the first failure:\n")
        _run([*command, "--exitfirst"])
        sys.stderr.write(
            f"The interpreter died of {signal.Signals(-status).name} in a check: most likely a "
            "tensor lies in memory that nobody keeps.\n"
            "Read: The plugin contract, Memory (docs/plugin-authors/contract.md).\n"
        )
        return 3
    return status


def _run(command: list[str]) -> int:
    sys.stderr.flush()
    with subprocess.Popen(command) as process:  # noqa: S603  # the user's arguments
        while True:
            # An interrupt reaches the process as well, which says how far it came.
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


def _refuse(found: str, remedy: str) -> int:
    sys.stderr.write(f"error: {found}.\n{remedy}\n")
    return 2
