"""`python -m benchmarks scale`: what time and memory cost from ten tensors to a million.

And from 1 GB to 64 GB, in sparse files that nothing may read whole.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.growth import LINEAR, steepest
from benchmarks.machine import describe_machine
from benchmarks.paths import existing_folder, output_path
from benchmarks.plot import draw, require_matplotlib
from benchmarks.scale_works import WORKS, Axis, Side, Work, write_file

__all__ = ["SIZES", "main", "measure", "table"]

_ROOT = Path(__file__).resolve().parents[1]
_SIDES: tuple[Side, ...] = ("ours", "reference")
_LONG = 3.0  # seconds of a sample that is not repeated: one shows enough
_FLOORS = {"seconds": 1e-3, "bytes": 2.0 * 1024**2}

#: Sizes of each axis.
SIZES: dict[Axis, list[int]] = {"tensors": [10, 1_000, 100_000, 1_000_000], "GB": [1, 4, 16, 64]}


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows the command's name; the process's own by default.

    Returns:
        Exit status: 0 if all of ours was measured, whatever it shows; 1 if something of it failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    if options.plot:
        require_matplotlib()
    document: dict[str, Any] = {"kind": "scale"}
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.folder) as folder:
        document["date"] = datetime.now(timezone.utc).date().isoformat()
        document["machine"] = describe_machine(folder, ["numpy", "torch"])
        document["settings"] = {"repeat": options.repeat}
        document["series"] = []
        for series in measure(folder, options.repeat, options.largest):
            print(series_line(series), file=sys.stderr, flush=True)
            document["series"].append(series)
            if options.json:  # each time, so that an interrupted run leaves what it has measured
                Path(options.json).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(table(document))
    if options.plot:
        draw(document, options.plot)
    return int(any("failed" in s for s in document["series"] if s["side"] == "ours"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="samples of each size (default 3)")
    parser.add_argument(
        "--json", type=output_path, metavar="FILE", help="write every sample to a file as well"
    )
    parser.add_argument(
        "--plot", type=output_path, metavar="FILE.svg", help="draw the costs as well"
    )
    parser.add_argument(
        "--folder", type=existing_folder, help="where to put a temporary folder of 300 MB"
    )
    parser.add_argument(
        "--largest",
        type=int,
        choices=SIZES["tensors"],
        default=SIZES["tensors"][-1],
        help="leave out files of more tensors",
    )
    return parser


def measure(folder: str, repeat: int, largest: int) -> Iterator[dict[str, Any]]:
    """Take all samples.

    Args:
        folder: Where files are written.
        repeat: Samples of each side at each size; where the first takes long, it is the only one.
        largest: Count of tensors above which no file is made.

    Yields:
        What a side has shown in a work, or why it cannot do it, fit for JSON.
    """
    sizes = SIZES | {"tensors": [size for size in SIZES["tensors"] if size <= largest]}
    for axis, found in sizes.items():
        for size in found:
            write_file(folder, axis, size)
    for work in WORKS:
        yield from _measure_work(work, sizes[work.axis], folder, repeat)


def _measure_work(
    work: Work, sizes: Iterable[int], folder: str, repeat: int
) -> Iterator[dict[str, Any]]:
    series: dict[Side, dict[str, Any]] = {
        side: {"work": work.name, "axis": work.axis, "says": work.says, "side": side, "points": []}
        for side in _SIDES
    }
    if isinstance(work.reference, str):
        series["reference"]["missing"] = work.reference
    for size in sizes:
        samples: dict[Side, list[dict[str, Any]]] = {
            side: [] for side in _SIDES if not {"missing", "failed"} & series[side].keys()
        }
        for turn in range(repeat):
            sides = [side for side in samples if "failed" not in series[side]]
            for side in reversed(sides) if turn % 2 else sides:
                done = samples[side]
                if done and done[0]["seconds"] > _LONG:
                    continue
                sample = _sample_in_new_process(work, side, size, folder)
                if "failed" in sample:
                    series[side]["failed"] = f"not {size:,} {work.axis}: {sample['failed']}"
                else:
                    done.append(sample)
        values = {sample["value"] for taken in samples.values() for sample in taken}
        if len(values) > 1:
            series["ours"]["failed"] = f"the sides differ at {size:,} {work.axis}: {sorted(values)}"
        for side, taken in samples.items():
            if taken:
                series[side]["points"].append(_point(size, taken))
    for found in series.values():
        found["slopes"] = _slopes(found["points"])
        yield found


def _sample_in_new_process(work: Work, side: Side, size: int, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale_works", work.axis, work.name, side]
    done = subprocess.run(
        [*command, str(size), folder],
        cwd=_ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.replace(folder, "").splitlines()
        return {"failed": lines[-1] if lines else f"exit status {done.returncode}"}
    sample: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return sample


def _point(size: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
    point: dict[str, Any] = {"size": size}
    for metric in _FLOORS:
        found = [sample[metric] for sample in samples]
        point[metric] = {"median": statistics.median(found), "samples": found}
    return point


def _slopes(points: list[dict[str, Any]]) -> dict[str, float | None]:
    return {
        # The least of the samples: what else the machine does can only add to one.
        metric: steepest({point["size"]: min(point[metric]["samples"]) for point in points}, floor)
        for metric, floor in _FLOORS.items()
    }


def table(document: dict[str, Any]) -> str:
    """What a run has shown, as Markdown.

    Args:
        document: What `main` writes.

    Returns:
        A table for each axis.
    """
    parts = []
    for axis, sizes in SIZES.items():
        series = [found for found in document["series"] if found["axis"] == axis]
        heads = [f"{size:,} {axis}" for size in sizes]
        lines = [
            "| work | side | " + " | ".join(heads) + " | each of the most | slope: time, memory |",
            "|---|---|" + "---|" * (len(heads) + 2),
        ]
        lines += [_row(found, sizes) for found in series]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def series_line(series: dict[str, Any]) -> str:
    """A line that tells who is done."""
    return f"{series['axis']}: {series['work']}, {series['side']}: {_growth(series)}"


def _row(series: dict[str, Any], sizes: list[int]) -> str:
    points = {point["size"]: point for point in series["points"]}
    if not points:
        note = series.get("failed") or series["missing"]
        return f"| {series['work']} | {series['side']} |" + " |" * len(sizes) + f" | {note} |"
    cells = [_cell(points.get(size)) for size in sizes]
    largest = max(points)
    each = points[largest]["seconds"]["median"] / largest
    unit = f"{each * 1e6:.2f} µs" if series["axis"] == "tensors" else f"{each * 1e3:.2f} ms"
    cells += [unit, _growth(series)]
    return f"| {series['work']} | {series['side']} | " + " | ".join(cells) + " |"


def _cell(point: dict[str, Any] | None) -> str:
    if point is None:
        return ""
    seconds, nbytes = point["seconds"]["median"], point["bytes"]["median"]
    time = f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
    return f"{time}, {nbytes / 1024**2:.3g} MiB"


def _growth(series: dict[str, Any]) -> str:
    if "missing" in series or "failed" in series:
        return str(series.get("missing") or series["failed"])
    slopes = series["slopes"]
    text = ", ".join("-" if slope is None else f"{slope:.2f}" for slope in slopes.values())
    worse = [metric for metric, slope in slopes.items() if (slope or 0) > LINEAR]
    return f"{text}: {' and '.join(worse)} WORSE THAN LINEAR" if worse else text


if __name__ == "__main__":
    sys.exit(main())
