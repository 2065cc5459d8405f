"""Run a client several times on both sides and keep what a report says of it."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.clients.comparison import Comparison, compare
from tests.clients.runner import Client, Run, Side, run


@dataclass(frozen=True)
class Times:
    """What some work took on each side, in seconds or bytes: one value for each round."""

    reference: list[float]
    ours: list[float]

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.reference), statistics.median(self.ours)

    def ratio(self) -> float:
        """How many times as much the reference takes, by the medians."""
        reference, ours = self.medians()
        return reference / ours

    def ratios(self) -> list[float]:
        """The same for each round, from the smallest."""
        return sorted(map(float.__truediv__, self.reference, self.ours))


@dataclass(frozen=True)
class Measurement:
    """All rounds of one client."""

    client: Client
    versions: list[tuple[str, str]]
    results: int
    comparisons: list[Comparison]
    sections: dict[str, Times]
    memory: Times

    def total(self, kind: str) -> Times | None:
        """The sum of the sections whose name begins with `kind`, if there are any."""
        found = [times for name, times in self.sections.items() if name.startswith(kind)]
        if not found:
            return None
        return Times(
            [sum(values) for values in zip(*(times.reference for times in found), strict=True)],
            [sum(values) for values in zip(*(times.ours for times in found), strict=True)],
        )

    def differences(self) -> list[str]:
        """What differed in any round, once."""
        return sorted({line for found in self.comparisons for line in found.differences})

    def files(self) -> tuple[int, int]:
        """How many files were identical in every round, and how many were reordered in one."""
        reordered = {name for found in self.comparisons for name in found.reordered}
        identical = {name for found in self.comparisons for name in found.identical}
        return len(identical - reordered), len(reordered)


def measure(client: Client, folder: Path, rounds: int) -> Measurement:
    """Run a client in turns on both sides, in an empty folder that is emptied again.

    Raises:
        ProgramFailedError: If a program did not end well.
    """
    pairs = list(_pairs(client, folder, rounds))
    reference = [pair.reference for pair in pairs]
    ours = [pair.ours for pair in pairs]
    sections = {
        name: Times([run.seconds[name] for run in reference], [run.seconds[name] for run in ours])
        for name in reference[0].seconds
    }
    memory = Times(
        [float(run.peak_memory) for run in reference], [float(run.peak_memory) for run in ours]
    )
    comparisons = [pair.comparison for pair in pairs]
    results = len(reference[0].results)
    return Measurement(client, client.versions(), results, comparisons, sections, memory)


@dataclass(frozen=True)
class _Pair:
    reference: Run
    ours: Run
    comparison: Comparison


def _pairs(client: Client, folder: Path, rounds: int) -> Iterator[_Pair]:
    # The first runs of all find nothing in the page cache: they warm it up and are not counted.
    for number in range(-1, rounds):
        workplace = folder / f"{client.program}-{number + 1}"
        workplace.mkdir()
        # Each side begins every other round, so that neither always runs on what the other left.
        sides = sorted(Side, reverse=number % 2 == 1)
        found = {side: run(client, side, workplace / side.value) for side in sides}
        comparison = compare(found[Side.REFERENCE], found[Side.OURS])
        shutil.rmtree(workplace)
        if number >= 0:
            yield _Pair(found[Side.REFERENCE], found[Side.OURS], comparison)
