"""`python -m benchmarks`: compare with the reference implementation on this machine."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.frameworks import FRAMEWORKS
from benchmarks.machine import describe_machine
from benchmarks.report import document, heading, listing, machine_lines, row
from benchmarks.runner import BenchmarkError, run_case

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: What follows the program's name; the process's own by default.

    Returns:
        Exit status: 0 if all cases ran, whether or not they met their targets; 1 if one failed;
        2 if no case has such a name.
    """
    options = _parser().parse_args(arguments)
    patterns = options.case or ["*"]
    cases = [c for c in CASES if any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]
    if not cases:
        print(f"no case is called {' or '.join(patterns)}; see --list", file=sys.stderr)
        return 2
    if options.list:
        print(listing(cases))
        return 0
    settings = {"repeat": options.repeat, "scale": options.scale}
    outcomes = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.folder) as folder:
        frameworks = [name for name in FRAMEWORKS if any(c.framework == name for c in cases)]
        machine = describe_machine(folder, frameworks)
        print(machine_lines(machine, settings), "", heading(), sep="\n", flush=True)
        for case in cases:
            try:
                outcome = run_case(case, folder, scale=options.scale, repeat=options.repeat)
            except BenchmarkError as error:
                print(error, file=sys.stderr, flush=True)
                failed = True
                continue
            print(row(outcome), flush=True)
            outcomes.append(outcome)
            if options.json:  # each time, so that an interrupted run leaves what it has measured
                text = json.dumps(document(machine, settings, outcomes), indent=2)
                Path(options.json).write_text(text + "\n", "utf-8")
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--case",
        metavar="PATTERN",
        action="append",
        help="only cases whose name matches, as in 'load-*'; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="say what each case compares, and end")
    parser.add_argument(
        "--repeat", type=_positive, default=7, help="samples of each side (default 7)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every sample to a file as well")
    parser.add_argument(
        "--folder", help="where to put a temporary folder of 2.3 GB (default: the system's)"
    )
    parser.add_argument(
        "--scale",
        type=_part,
        default=1.0,
        help="part of each checkpoint to use; less than 1 only shows that the cases run",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _part(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
