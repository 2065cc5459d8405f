"""Taking the samples of a case, one side after the other, each in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Target
from benchmarks.files import path_of
from benchmarks.ratio import ratio
from benchmarks.setting import Call
from benchmarks.sides import Side, find
from benchmarks.worker import WARM_UP

__all__ = ["BenchmarkError", "Outcome", "Series", "run_case"]

_ROOT = Path(__file__).resolve().parents[1]

# Of what TensorFlow logs, only errors stand beside a sample that failed.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3"}
# All sides load into the host's memory, whatever devices a framework would find.
_HOST_ONLY = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


class BenchmarkError(Exception):
    """A sample could not be taken, or we did not compute the same each time."""


@dataclass
class Series:
    """The samples of one side.

    Attributes:
        says: The call as a user writes it.
        samples: Seconds or bytes.
        values: What the samples computed, which is the same for all, or None for a limit.
    """

    says: str
    samples: list[float] = field(default_factory=list)
    values: set[str | None] = field(default_factory=set)

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    def as_json(self) -> dict[str, Any]:
        """Everything about it, fit for JSON."""
        return {
            "says": self.says,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "samples": self.samples,
        }


@dataclass
class Outcome:
    """What a case has shown.

    Attributes:
        case: The case.
        series: The samples of each side, by name.
        roles: What each side is.
        missing: Why a side took no part, by name.
        failed: Why the samples of a side are worth nothing, by name.
        cached: Part of the file in the page cache before each sample.
        scale: How much of the checkpoint was used.
    """

    case: Case
    series: dict[str, Series] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    cached: list[float] = field(default_factory=list)
    scale: float = 1

    @property
    def best_peer(self) -> str | None:
        """Name of the peer with the lowest median, if there is a peer."""
        peers = [name for name in self.series if self.roles[name] == "peer"]
        return min(peers, key=lambda name: self.series[name].median, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times as much the best peer takes; None where one is too little to be told."""
        best, ours = self.best_peer, self.series["ours"].median
        if best is None:
            return None
        return ratio(self.case.work.metric, self.series[best].median, ours)

    def met(self, target: Target) -> bool | None:
        """Whether a target is reached; None where the side that it is about took no part.

        None also with a part of the checkpoint, about which no target says anything.
        """
        other = {"peer": self.best_peer, "ours": "ours"}.get(target.kind, target.side)
        if other not in self.series or self.scale < 1:
            return None
        return target.met(self.series["ours"].median, self.series[other].median)

    @property
    def warning(self) -> str | None:
        """What makes the figures doubtful, if anything does."""
        if self.case.cache == "cold" and max(self.cached, default=0) > 0.05:
            return f"not cold: up to {max(self.cached):.0%} of the file stayed in the page cache"
        if self.case.cache == "warm" and min(self.cached, default=1) < 0.95:
            return f"not warm: only {min(self.cached):.0%} of the file was in the page cache"
        return None

    def as_json(self) -> dict[str, Any]:
        """Everything about it, fit for JSON."""
        case = self.case
        return {
            "name": case.name,
            "task": case.work.task,
            "framework": case.framework,
            "checkpoint": case.checkpoint,
            "cache": case.cache,
            "touch": case.work.touch,
            "metric": case.work.metric,
            "sides": {name: series.as_json() for name, series in self.series.items()},
            "missing": self.missing,
            "failed": self.failed,
            "best_peer": self.best_peer,
            "ratio": self.ratio,
            "targets": [
                {"kind": t.kind, "bound": t.bound, "side": t.side or None, "met": self.met(t)}
                for t in case.targets
            ],
            "warning": self.warning,
        }


def run_case(case: Case, folder: str, *, scale: float, repeat: int) -> Outcome:
    """Take all samples of a case, the sides in turn; each round begins with another one.

    Args:
        case: The case.
        folder: Where its files are written.
        scale: How much of the checkpoint.
        repeat: Samples of each side.

    Returns:
        The samples of all sides that are installed. A peer that fails, or computes another value
        than we do, is left out, and the outcome says why.

    Raises:
        BenchmarkError: A sample of ours or of a limit failed, or two samples of ours differ.
    """
    outcome = Outcome(case, scale=scale)
    sides: list[Side] = []
    for side in case.sides:
        outcome.roles[side.name] = side.role
        reason = find(side).missing
        if reason is None:
            sides.append(side)
            call: Call = side.calls[case.work.task]
            outcome.series[side.name] = Series(call.says)
        else:
            outcome.missing[side.name] = reason
    _write_files(case, sides, folder, scale)
    for turn in range(repeat):
        first = turn % len(sides)
        for side in [*sides[first:], *sides[:first]]:
            if side.name not in outcome.failed:
                _add_sample(outcome, side, folder, scale)
    _compare_values(outcome)
    for name in outcome.failed:
        del outcome.series[name]
    return outcome


def _add_sample(outcome: Outcome, side: Side, folder: str, scale: float) -> None:
    case = outcome.case
    arguments = ["benchmarks.worker", case.name, side.name, folder, repr(scale)]
    done = _run(arguments, side, hide_devices=case.work.device == "cpu")
    if done.returncode:
        if side.role != "peer":
            raise BenchmarkError(f"{case.name}: {side.name} failed:\n{done.stderr}")
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        outcome.failed[side.name] = lines[-1]
        return
    sample: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    series = outcome.series[side.name]
    series.samples.append(sample["measured"])
    series.values.add(sample["value"])
    if sample["cached"] is not None:
        outcome.cached.append(sample["cached"])
    if case.cache == "none" and case.checkpoint:
        # What one side has left to be written must not slow down the other.
        os.sync()


def _compare_values(outcome: Outcome) -> None:
    ours = outcome.series["ours"].values
    if len(ours) != 1:
        raise BenchmarkError(f"{outcome.case.name}: ours computed one value, then another: {ours}")
    for name, series in outcome.series.items():
        if outcome.roles[name] == "peer" and name not in outcome.failed and series.values != ours:
            outcome.failed[name] = f"computed {series.values}, and we {ours}"


def _write_files(case: Case, sides: list[Side], folder: str, scale: float) -> None:
    """Write what the sides read, with the packages of a side that has the format."""
    if not case.checkpoint or case.cache == "none":
        return
    for side in {side.kind: side for side in reversed(sides)}.values():
        for part in (scale, scale * WARM_UP):
            if os.path.exists(path_of(folder, case.checkpoint, part, side.kind)):
                continue
            arguments = ["benchmarks.files", folder, case.checkpoint, repr(part), side.kind]
            done = _run(arguments, side, hide_devices=True)
            if done.returncode:
                raise BenchmarkError(f"{case.name}: no {side.kind} file:\n{done.stderr}")


def _run(
    arguments: list[str], side: Side, *, hide_devices: bool
) -> subprocess.CompletedProcess[str]:
    """Run a module where a side is found first."""
    environment = os.environ | _ENVIRONMENT | (_HOST_ONLY if hide_devices else {})
    if folder := find(side).folder:
        before = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([folder, before] if before else [folder])
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
