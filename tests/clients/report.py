"""Write the page that compares both sides: `python -m tests.clients.report`."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from tests.clients.measurement import Measurement, Times, measure
from tests.clients.recording import FEWEST_REPEATS
from tests.clients.runner import CLIENTS, ROOT

PAGE = ROOT / "docs" / "maintainers" / "clients.md"
OWN_PACKAGES = ("safetensors-core", "safetensors", "torch", "numpy")
# Below this, in seconds, a difference is the clock's and the scheduler's.
SMALLEST_DIFFERENCE = 50e-6

INTRODUCTION = """\
# Clients

`python -m tox -e clients` runs programs that use other libraries, each once on the reference
implementation and once on these packages, by `python -m safetensors_core.compat`. They stand in
`tests/clients/programs`, one for each library, and know nothing of this project. What they compute
must be equal on both sides, tensors bit for bit, and so must the bytes of every file that they
write. There is one exception: the reference writes two or more keys of metadata in an order that
changes from run to run. Such a file may differ in that order, but its header must be equal as JSON,
and its data byte for byte.

Everything runs offline on the CPU, with small models made from their configuration, and with a
real one of 90 MB.

One command writes this page. It uses the environment that tox made, and a machine that does nothing
else:

```console
$ .tox/clients/bin/python -m tests.clients.report
```

A program for one more client goes into `tests/clients/programs`, and its name into
`tests/clients/runner.py`. It takes a folder to write to, and gives what it computed and how long
it took to a `Recording`.

"""

KNOWN = """
Profiles tell what some of the loads spend their time on. *accelerate* collects garbage once per
load: that was 98 % of the time of *load and dispatch*, on both sides, and about three quarters of
*load with offload*; these packages add 1.5 % to the objects that are looked at. A *distributed
checkpoint* is read in about 2.5 ms or in about 11 ms on either side, as the process gets memory
again that it has freed or must take new pages from the system, for the tensors that the program
itself makes. For what these packages read, they keep released memory themselves. The load of
*transformers* is noise: in a run of five rounds, two hours before, no round was slower and the
median was 1.63. A small fixed cost is not: writing several small shards with *huggingface_hub* had
medians of 0.91 to 0.96 in three runs, about 0.1 ms.

"""

EXPLANATION = """\
*Results* is the number of values compared, most of them hashes of tensors. *Files* is the number
with the same bytes; after the plus sign, of those that differ in the order of metadata alone.
*Save* and *load* are the sums of the sections below: calls that write or read weights, with all
that the library itself does in them, computing with one thread. A program makes each call once to
warm up and then at least {repeats} times, and the shortest time counts. The tables have the medians
of {rounds} runs, the sides in turn, after one run of each that does not count. A ratio above 1
means that these packages are faster, or take less memory. *Memory* is the peak of the whole
process, libraries and mapped pages of files included.

"""


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.clients.report", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--client", action="append", help="only this program; may be repeated")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    given = parser.parse_args(None if arguments is None else list(arguments))
    clients = [client for client in CLIENTS if not given.client or client.program in given.client]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for client in clients:
            found.append(measure(client, Path(folder), given.rounds))
            sys.stdout.write(f"{client.program}: {summary(found[-1])}\n")
            sys.stdout.flush()
    given.page.write_text(page(found, given.rounds), "utf-8")
    return int(any(measurement.differences() for measurement in found))


def summary(found: Measurement) -> str:
    """One line while the command runs."""
    slower = ", ".join(slower_sections(found)) or "nothing"
    return f"{len(found.differences())} differences, slower in every round: {slower}"


def page(found: list[Measurement], rounds: int) -> str:
    """The whole page."""
    parts = [
        INTRODUCTION,
        machine(),
        "\n\n## Both sides, side by side\n\n",
        *overview(found),
        "\n",
        EXPLANATION.format(repeats=FEWEST_REPEATS, rounds=rounds),
        *verdict(found),
        "\n## Every section\n\n",
        *details(found),
    ]
    return "".join(parts)


def machine() -> str:
    """What a reader must know to make sense of the times."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in OWN_PACKAGES)
    today = dt.datetime.now(dt.timezone.utc).date()
    return (
        f"Measured on {today:%d %B %Y}, with {len(os.sched_getaffinity(0))} cores, "
        f"{memory:.0f} GiB of memory, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {packages}."
    )


def overview(found: list[Measurement]) -> Iterable[str]:
    """The table with one row for each client."""
    yield (
        "| client | results | files | save: reference, ours (ms) | ratio "
        "| load: reference, ours (ms) | ratio | memory: reference, ours (MiB) | ratio |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    for one in found:
        versions = ", ".join(" ".join(version) for version in one.versions)
        identical, reordered = one.files()
        files = f"{identical}{f' + {reordered}' if reordered else ''} equal"
        equal = f"{one.results} equal"
        if one.differences():
            equal = files = "**differ**"
        cells = [
            versions,
            equal,
            files,
            *pair(one.total("save"), 1e3),
            *pair(one.total("load"), 1e3),
            *pair(one.memory, 2**-20, digits=0),
        ]
        yield f"| {' | '.join(cells)} |\n"


def pair(times: Times | None, unit: float, digits: int = 2) -> tuple[str, str]:
    """Two cells: both medians in a unit, and their ratio."""
    if times is None:
        return "", ""
    reference, ours = times.medians()
    return f"{reference * unit:.{digits}f}, {ours * unit:.{digits}f}", f"{times.ratio():.2f}"


def verdict(found: list[Measurement]) -> Iterable[str]:
    """What differed, and what was slower beyond noise."""
    for one in found:
        for line in one.differences():
            yield f"- **{one.client.program}** differs: {line}\n"
    slower = [f"{one.client.program}: {name}" for one in found for name in slower_sections(one)]
    if slower:
        yield f"Slower than the reference in every round: {'; '.join(slower)}.\n"
    else:
        yield "Nothing was slower than the reference in every round.\n"
    yield KNOWN


def slower_sections(found: Measurement) -> list[str]:
    """The sections that took longer than on the reference each time: more than noise."""
    return [
        name
        for name, times in found.sections.items()
        if all(
            ours - reference > SMALLEST_DIFFERENCE
            for reference, ours in zip(times.reference, times.ours, strict=True)
        )
    ]


def details(found: list[Measurement]) -> Iterable[str]:
    """The table with one row for each section that a program times."""
    yield (
        "The range is that of the ratios of the single rounds.\n\n"
        "| client | section | reference (ms) | ours (ms) | ratio | range |\n"
        "|---|---|---|---|---|---|\n"
    )
    for one in found:
        for name, times in one.sections.items():
            reference, ours = (value * 1e3 for value in times.medians())
            ratios = times.ratios()
            yield (
                f"| {one.client.program} | {name} | {reference:.2f} | {ours:.2f} "
                f"| {times.ratio():.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} |\n"
            )


if __name__ == "__main__":
    sys.exit(main())
