"""The table that a run prints, and the document that it writes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from benchmarks.cases import CASES, Case, Target
from benchmarks.runner import Outcome, Series

__all__ = ["document", "heading", "listing", "machine_lines", "row"]

_NAME = max(len(case.name) for case in CASES)
_COLUMNS = f"{{:>8}}  {{:<{_NAME}}}  {{:<5}}  {{:>10}}  {{:>10}}  {{:>19}}  {{:>19}}  {{:>9}}  {{}}"
_MIB = 1024 * 1024


def machine_lines(machine: dict[str, Any], settings: dict[str, Any]) -> str:
    """What stands above the table.

    Args:
        machine: From `describe_machine`.
        settings: How the run was started.

    Returns:
        Lines.
    """
    packages = (f"{name}=={found}" for name, found in machine["packages"].items())
    software = ", ".join([machine["python"], *packages])
    return (
        f"{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 1024**3:.0f} GiB memory, huge pages {machine['huge_pages']}\n"
        f"{machine['system']}, files on {machine['file_system']}, "
        f"load average {machine['load_average']} at the start\n"
        f"{textwrap.fill(software, width=100, break_on_hyphens=False)}\n"
        f"medians of {settings['repeat']}, each sample in a process of its own, sides in turn; "
        f"scale {settings['scale']:g}"
    )


def heading() -> str:
    """The first line of the table."""
    return _COLUMNS.format(
        "ratio", "case", "cache", "ours", "peer", "ours min-max", "peer min-max", "target", ""
    ).rstrip()


def row(outcome: Outcome) -> str:
    """One case in the table, with a second line if its figures are doubtful.

    Args:
        outcome: What the case has shown.

    Returns:
        One line or two.
    """
    case, ratio = outcome.case, outcome.ratio
    line = _COLUMNS.format(
        "-" if ratio is None else f"{ratio:.2f}x",
        case.name,
        "-" if case.cache == "none" else case.cache,
        _amount(case, outcome.ours.median),
        _amount(case, outcome.peer.median),
        _spread(case, outcome.ours),
        _spread(case, outcome.peer),
        _wanted(case, case.target),
        {None: "", True: "met", False: "MISSED"}[outcome.met],
    ).rstrip()
    if outcome.warning:
        line += f"\n{'':>10}{outcome.warning}"
    return line


def listing(cases: Iterable[Case]) -> str:
    """What every case compares.

    Args:
        cases: The cases.

    Returns:
        Three lines for each.
    """
    lines = []
    for case in cases:
        facts: list[str] = [case.checkpoint or "no tensors", case.framework]
        facts += [] if case.cache == "none" else [f"{case.cache} file"]
        facts += ["every byte read"] if case.work.touch else []
        facts += [] if case.work.metric == "seconds" else [f"peak of extra {case.work.metric}"]
        facts += [f"target {_wanted(case, case.target)}"] if case.target else []
        lines.append(f"{case.name}: {', '.join(facts)}")
        lines.append(f"    ours  {case.work.ours.says}")
        lines.append(f"    peer  {case.work.peer.says}")
    return "\n".join(lines)


def document(
    machine: dict[str, Any], settings: dict[str, Any], outcomes: Iterable[Outcome]
) -> dict[str, Any]:
    """The whole run, fit for JSON: seconds and bytes, every sample.

    Args:
        machine: From `describe_machine`.
        settings: How the run was started.
        outcomes: What the cases have shown.

    Returns:
        The document.
    """
    return {
        "machine": machine,
        "settings": settings,
        "cases": [outcome.as_json() for outcome in outcomes],
    }


def _amount(case: Case, value: float, *, unit: bool = True) -> str:
    if case.work.metric == "seconds":
        return _digits(value * 1000) + (" ms" if unit else "")
    return f"{value / _MIB:.1f}" + (" MiB" if unit else "")


def _digits(value: float) -> str:
    """A number to three digits or more, never in powers of ten."""
    for limit, digits in ((1, 3), (10, 2), (100, 1)):
        if value < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def _spread(case: Case, series: Series) -> str:
    low, high = min(series.samples), max(series.samples)
    return f"{_amount(case, low, unit=False)} - {_amount(case, high, unit=False)}"


def _wanted(case: Case, target: Target | None) -> str:
    if target is None:
        return ""
    if target.kind == "ratio":
        return f">= {target.bound:g}x"
    sign = "<= +" if target.kind == "extra" else "< "
    seconds = case.work.metric == "seconds"
    return f"{sign}{target.bound * 1000:g} ms" if seconds else f"{sign}{target.bound / _MIB:g} MiB"
