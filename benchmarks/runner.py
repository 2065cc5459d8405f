"""Taking the samples of a case, one side and then the other, each in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.checkpoints import write_file
from benchmarks.worker import WARM_UP, Side

__all__ = ["BenchmarkError", "Outcome", "Series", "run_case"]

_ROOT = Path(__file__).resolve().parents[1]
_MEMORY_ERROR = 1024 * 1024  # bytes: below, the kernel's count of a process's pages is noise


# Both sides load into the host's memory, whatever devices a framework would find; and of what
# TensorFlow logs, only errors stand beside a sample that failed.
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


class BenchmarkError(Exception):
    """A sample could not be taken, or the sides did not compute the same."""


@dataclass
class Series:
    """The samples of one side, in seconds or bytes."""

    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    def as_json(self) -> dict[str, Any]:
        """Everything about it, fit for JSON."""
        return {
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
        ours: Our samples.
        peer: The peer's.
        cached: Part of the file in the page cache before each sample, ours and the peer's.
    """

    case: Case
    ours: Series = field(default_factory=Series)
    peer: Series = field(default_factory=Series)
    cached: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """How many times as much the peer takes; None where one is too little to be told."""
        least = _MEMORY_ERROR if self.case.work.metric != "seconds" else 0
        if min(self.ours.median, self.peer.median) <= least:
            return None
        return self.peer.median / self.ours.median

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        target = self.case.target
        return None if target is None else target.met(self.ours.median, self.peer.median)

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
        target = case.target
        return {
            "name": case.name,
            "framework": case.framework,
            "checkpoint": case.checkpoint,
            "cache": case.cache,
            "touch": case.work.touch,
            "metric": case.work.metric,
            "timed": {"ours": case.work.ours.says, "peer": case.work.peer.says},
            "ratio": self.ratio,
            "ours": self.ours.as_json(),
            "peer": self.peer.as_json(),
            "target": target and {"kind": target.kind, "bound": target.bound},
            "met": self.met,
            "cached": self.cached,
            "warning": self.warning,
        }


def run_case(case: Case, folder: str, *, scale: float, repeat: int) -> Outcome:
    """Take all samples of a case, the sides in turn; each begins every other round.

    Args:
        case: The case.
        folder: Where its files are written.
        scale: How much of the checkpoint.
        repeat: Samples of each side.

    Returns:
        The samples.

    Raises:
        BenchmarkError: A sample failed, or two samples differ in what they computed.
    """
    if case.checkpoint and case.cache != "none":
        write_file(folder, case.checkpoint, scale)
        write_file(folder, case.checkpoint, scale * WARM_UP)
    outcome = Outcome(case)
    expected: str | None = None
    for turn in range(repeat):
        sides: tuple[Side, Side] = ("peer", "ours") if turn % 2 else ("ours", "peer")
        for side in sides:
            sample = _sample_in_new_process(case, side, folder, scale)
            series = outcome.ours if side == "ours" else outcome.peer
            series.samples.append(sample["measured"])
            if sample["cached"] is not None:
                outcome.cached.append(sample["cached"])
            if expected is None:
                expected = sample["value"]
            elif sample["value"] != expected:
                raise BenchmarkError(
                    f"{case.name}: the sides differ: {side} computed {sample['value']}, "
                    f"before it was {expected}"
                )
            if case.cache == "none" and case.checkpoint:
                # What one side has left to be written must not slow down the other.
                os.sync()
    return outcome


def _sample_in_new_process(case: Case, side: Side, folder: str, scale: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.worker", case.name, side, folder, repr(scale)]
    environment = os.environ | _ENVIRONMENT
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{case.name}: {side} failed:\n{done.stderr}")
    sample: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return sample
