"""`python -m benchmarks`: compare with peers, and with what this machine can do at most.

Other commands install peers and work with the documents that runs write:
`python -m benchmarks {run,scale,peers,compare,table,plot} --help`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, DEVICE_CASES, TARGET_CASES, Case
from benchmarks.compare import compare, regressions
from benchmarks.devices import device_is_there
from benchmarks.frameworks import FRAMEWORKS
from benchmarks.machine import describe_machine
from benchmarks.paths import existing_folder, output_path
from benchmarks.peers import install_peers
from benchmarks.report import (
    case_lines,
    describe_sides,
    document,
    heading,
    listing,
    machine_lines,
    markdown,
)
from benchmarks.runner import BenchmarkError, Outcome, run_case

__all__ = ["main"]

_SUITES = {"all": CASES, "targets": TARGET_CASES, "device": DEVICE_CASES}


def main(arguments: list[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: What follows the program's name; the process's own by default. Without the name
            of a command, `run` is meant.

    Returns:
        Exit status: 0 if all went well, whether or not targets were met; 1 if a case or a side of
        one failed, or a comparison found more than it was to accept; 2 if no case has such a name.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {
        "run": _run,
        "scale": _scale,
        "peers": _peers,
        "compare": _compare,
        "table": _table,
        "plot": _plot,
    }
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    options = _run_parser().parse_args(arguments)
    patterns = options.case or ["*"]
    suite = _SUITES[options.suite]
    cases = [c for c in suite if any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]
    if not cases:
        print(
            f"no case of the suite {options.suite!r} is called {' or '.join(patterns)}; see --list",
            file=sys.stderr,
        )
        return 2
    if options.list:
        print(listing(cases))
        return 0
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.folder) as folder:
        return _measure(cases, folder, options)


def _measure(cases: list[Case], folder: str, options: argparse.Namespace) -> int:
    date = datetime.now(timezone.utc).date().isoformat()
    frameworks = [name for name in FRAMEWORKS if any(c.framework == name for c in cases)]
    machine = describe_machine(folder, frameworks)
    settings = {"repeat": options.repeat, "scale": options.scale}
    outcomes: list[Outcome] = []
    skipped: dict[str, str] = {}
    failed = False

    def so_far() -> dict[str, Any]:
        return document(date, machine, settings, outcomes, skipped)

    if any(case.work.device != "cpu" for case in cases) and not device_is_there():
        why = "skipped: PyTorch finds no CUDA device"
        skipped |= {case.name: why for case in cases if case.work.device != "cpu"}
        cases = [case for case in cases if case.name not in skipped]
    print(*machine_lines(so_far()), *(f"{n}: {w}" for n, w in skipped.items()), sep="\n")
    print("", heading(), sep="\n", flush=True)
    for case in cases:
        try:
            outcome = run_case(case, folder, scale=options.scale, repeat=options.repeat)
        except BenchmarkError as error:
            print(error, file=sys.stderr, flush=True)
            skipped[case.name] = f"failed: {str(error).rstrip().splitlines()[-1]}"
            failed = True
        else:
            outcomes.append(outcome)
            failed |= bool(outcome.failed)
            print(case_lines(outcome.as_json(), describe_sides()), flush=True)
        if options.json:  # each time, so that an interrupted run leaves what it has measured
            Path(options.json).write_text(json.dumps(so_far(), indent=1) + "\n", "utf-8")
    return int(failed)


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks run", description=__doc__)
    parser.add_argument(
        "--suite",
        choices=_SUITES,
        default="all",
        help="targets: what the project has promised; device: loads to a CUDA device",
    )
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
    parser.add_argument(
        "--json", type=output_path, metavar="FILE", help="write every sample to a file as well"
    )
    parser.add_argument(
        "--folder",
        type=existing_folder,
        help="where to put a temporary folder of 5 GB, with a GPU 19 GB (default: the system's)",
    )
    parser.add_argument(
        "--scale",
        type=_part,
        default=1.0,
        help="part of each checkpoint to use; less than 1 only shows that the cases run",
    )
    return parser


def _scale(arguments: list[str]) -> int:
    from benchmarks import scale

    return scale.main(arguments)


def _peers(arguments: list[str]) -> int:
    argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description="Install peers in folders of their own, where the environment has them not.",
    ).parse_args(arguments)
    return install_peers()


def _compare(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description="Compare two runs, case by case."
    )
    parser.add_argument("before", type=_run_document, metavar="A.json")
    parser.add_argument("after", type=_run_document, metavar="B.json")
    parser.add_argument(
        "--fail-above",
        type=float,
        metavar="RATIO",
        help="exit with status 1 if ours takes more than RATIO times as long as before in any "
        "case, and no sample lies among those of before",
    )
    options = parser.parse_args(arguments)
    scales = [run["settings"]["scale"] for run in (options.before, options.after)]
    if scales[0] != scales[1]:
        parser.error(f"the runs have different scales, {scales[0]:g} and {scales[1]:g}")
    names = [{case["name"] for case in run["cases"]} for run in (options.before, options.after)]
    if not names[0] & names[1]:
        parser.error("the runs have no case in common")
    print(compare(options.before, options.after))
    if options.fail_above is None:
        return 0
    slower = regressions(options.before, options.after, options.fail_above)
    if slower:
        print(f"above {options.fail_above:g}x: {', '.join(slower)}", file=sys.stderr)
    return int(bool(slower))


def _table(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks table", description="Print a run as a table of Markdown."
    )
    parser.add_argument("run", type=_run_document, metavar="RUN.json")
    print(markdown(parser.parse_args(arguments).run))
    return 0


def _plot(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks plot", description="Draw a run; needs matplotlib."
    )
    parser.add_argument("run", type=_document, metavar="RUN.json")
    parser.add_argument("path", type=output_path, metavar="OUT.svg")
    options = parser.parse_args(arguments)
    from benchmarks.plot import draw

    draw(options.run, options.path)
    return 0


def _document(path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{path} is not what a run has written: {error}"
        ) from error
    return found


def _run_document(path: str) -> dict[str, Any]:
    found = _document(path)
    if found.get("kind") != "run":
        raise argparse.ArgumentTypeError(f"{path} is not what `python -m benchmarks run` writes")
    return found


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
