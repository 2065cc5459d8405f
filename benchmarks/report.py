"""Runs as documents, and documents as tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.cases import Case
from benchmarks.ratio import ratio
from benchmarks.runner import Outcome
from benchmarks.sides import SIDES, find

__all__ = [
    "amount",
    "case_lines",
    "describe_sides",
    "document",
    "heading",
    "listing",
    "machine_lines",
    "markdown",
    "rows",
    "times",
]

_HEADING = ["case", "side", "median", "min - max", "of ours", "target"]
_WIDTHS = [30, 24, 11, 19, 8]
_MIB = 1024 * 1024


def document(
    date: str,
    machine: dict[str, Any],
    settings: dict[str, Any],
    outcomes: Iterable[Outcome],
    skipped: dict[str, str],
) -> dict[str, Any]:
    """The whole run, fit for JSON: seconds and bytes, every sample.

    Args:
        date: When it began, as YYYY-MM-DD.
        machine: From `describe_machine`.
        settings: How the run was started.
        outcomes: What the cases have shown.
        skipped: Why a case did not run, by its name.

    Returns:
        The document.
    """
    return {
        "kind": "run",
        "date": date,
        "machine": machine,
        "settings": settings,
        "sides": describe_sides(),
        "cases": [outcome.as_json() for outcome in outcomes],
        "skipped": skipped,
    }


def describe_sides() -> dict[str, dict[str, Any]]:
    """Every side there is: its role, its version where it has one, and why it is missing."""
    described = {}
    for side in SIDES:
        found = find(side)
        described[side.name] = {"role": side.role, "version": found.version}
        if found.missing:
            described[side.name]["missing"] = found.missing
    return described


def machine_lines(run: dict[str, Any]) -> list[str]:
    """What stands above a table.

    Args:
        run: A document, whatever cases it has.

    Returns:
        Lines: machine, system, versions, how samples were taken, and which peers are missing.
    """
    machine, settings = run["machine"], run["settings"]
    memory = f"{machine['memory_bytes'] / 1024**3:.0f} GiB memory"
    packages = (f"{name}=={found}" for name, found in machine["packages"].items())
    sides = run["sides"].items()
    peers = [
        name if side["version"] in name else f"{name} {side['version']}"
        for name, side in sides
        if side["role"] == "peer" and "missing" not in side
    ]
    missing = [f"{name} ({side['missing']})" for name, side in sides if "missing" in side]
    files = f"files on {machine['file_system']}"
    load = f"load average {machine['load_average']} at the start"
    lines = [
        [run["date"], machine["cpu"], f"{machine['cores']} cores", memory, *machine["gpus"]],
        [f"huge pages {machine['huge_pages']}", machine["system"], files, load],
        [machine["python"], *packages],
        [f"peers: {', '.join(peers)}"],
        [f"without {'; '.join(missing)}"] if missing else [],
        [
            f"medians of {settings['repeat']}",
            "each sample in a process of its own, sides in turn",
            f"scale {settings['scale']:g}",
        ],
    ]
    return [", ".join(line) for line in lines if line]


def heading() -> str:
    """The first line of the table that a run prints."""
    return _padded(_HEADING)


def case_lines(case: dict[str, Any], sides: dict[str, dict[str, Any]]) -> str:
    """A case as a run prints it.

    Args:
        case: From a document.
        sides: All sides, from the same document.

    Returns:
        A line for each side that took part, and one for whatever is doubtful.
    """
    lines = [_padded(row) for row in rows(case, sides)]
    return "\n".join([*lines, *(f"    {note}" for note in _notes(case))])


def markdown(run: dict[str, Any]) -> str:
    """A run as a table of Markdown, with the machine above it and doubts below.

    Args:
        run: The document of a run.

    Returns:
        Text of several paragraphs.
    """
    paragraphs = [textwrap.fill(line, 120, break_on_hyphens=False) for line in machine_lines(run)]
    table = [_HEADING, ["---", "---", "--:", "--:", "--:", "---"]]
    notes = [f"{name}: {why}" for name, why in run["skipped"].items()]
    for case in run["cases"]:
        table += [[f"`{n}`" if n else "", *cells] for n, *cells in rows(case, run["sides"])]
        notes += [f"{case['name']}: {note}" for note in _notes(case)]
    lines = [f"| {' | '.join(row)} |".replace("  ", " ") for row in table]
    listed = [textwrap.fill(f"- {n}", 120, subsequent_indent="  ") for n in notes]
    return "\n\n".join(
        ["\n".join(paragraphs), "\n".join(lines), *(["\n".join(listed)] * bool(listed))]
    )


def rows(case: dict[str, Any], sides: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """A case as cells: ours first, then peers and then limits, the faster before the slower.

    Args:
        case: From a document.
        sides: All sides, from the same document.

    Yields:
        Name of the case in the first row, side, median, spread, how many times ours it is, and
        the target that is about this side.
    """
    order = ["ours", "peer", "limit"]
    metric, series = case["metric"], case["sides"]

    def place(name: str) -> tuple[int, float]:
        return order.index(sides[name]["role"]), series[name]["median"]

    ours = series["ours"]["median"]
    for name in sorted(series, key=place):
        found = series[name]
        low, high = (amount(metric, found[end]).split()[0] for end in ("min", "max"))
        targets = [_wanted(t, metric) for t in case["targets"] if _subject(t, case) == name]
        yield [
            case["name"] if name == "ours" else "",
            f"limit: {name}" if sides[name]["role"] == "limit" else name,
            amount(metric, found["median"]),
            f"{low} - {high}",
            "" if name == "ours" else times(metric, found["median"], ours),
            ", ".join(targets),
        ]


def listing(cases: Iterable[Case]) -> str:
    """What every case compares.

    Args:
        cases: The cases.

    Returns:
        A line for each and one more for each of its sides.
    """
    lines = []
    for case in cases:
        work = case.work
        facts: list[str] = [case.checkpoint or "no tensors", case.framework]
        facts += [] if case.cache == "none" else [f"{case.cache} file"]
        facts += ["every byte read"] if work.touch else []
        facts += [f"done {work.before} times before"] if work.before else []
        facts += [] if work.device == "cpu" else [f"to {work.device}"]
        facts += [] if work.metric == "seconds" else [f"peak of extra {work.metric}"]
        for target in case.targets:
            kind, bound = target.kind, target.bound
            wanted = {"kind": kind, "bound": bound, "side": target.side, "met": None}
            facts.append(f"target {_wanted(wanted, work.metric).partition(':')[0]}")
        lines.append(f"{case.name}: {', '.join(facts)}")
        for side in case.sides:
            missing = find(side).missing
            says = side.calls[work.task].says + (f" ({missing})" if missing else "")
            lines.append(f"    {side.name:<20}  {says}")
    return "\n".join(lines)


def amount(metric: str, value: float) -> str:
    """A median as people read it.

    Args:
        metric: What a case measures.
        value: Seconds or bytes.

    Returns:
        Milliseconds or MiB, with at least three digits.
    """
    if metric != "seconds":
        return f"{value / _MIB:.1f} MiB"
    return f"{_digits(value * 1000)} ms"


def times(metric: str, value: float, base: float) -> str:
    """One amount as a multiple of another, as people read it.

    Args:
        metric: What a case measures.
        value: Seconds or bytes.
        base: Likewise.

    Returns:
        The multiple, or ``"-"`` where one of them is less memory than the kernel can count.
    """
    found = ratio(metric, value, base)
    return "-" if found is None else f"{found:.2f}x"


def _notes(case: dict[str, Any]) -> list[str]:
    notes = [f"{name} failed: {why}" for name, why in case["failed"].items()]
    notes += [f"no {name}: {why}" for name, why in case["missing"].items()]
    return notes + ([case["warning"]] if case["warning"] else [])


def _subject(target: dict[str, Any], case: dict[str, Any]) -> str:
    """The side whose row shows a target: where that took no part, ours."""
    side = {"peer": case["best_peer"], "ours": "ours"}.get(target["kind"], target["side"])
    return side if side in case["sides"] else "ours"


def _wanted(target: dict[str, Any], metric: str) -> str:
    bound = target["bound"]
    if target["kind"] == "peer":
        text = f">= {bound:g}x"
    elif target["kind"] == "limit":
        text = f"ours <= {bound:g}x {target['side']}"
    else:
        sign = "ours <= +" if target["kind"] == "extra" else "< "
        text = (
            f"{sign}{bound * 1000:g} ms" if metric == "seconds" else f"{sign}{bound / _MIB:g} MiB"
        )
    return f"{text}: { {True: 'met', False: 'MISSED', None: 'not measured'}[target['met']] }"


def _padded(cells: list[str]) -> str:
    name, side, *numbers, target = cells
    texts = [f"{name:<{_WIDTHS[0]}}", f"{side:<{_WIDTHS[1]}}"]
    texts += [f"{text:>{width}}" for text, width in zip(numbers, _WIDTHS[2:], strict=True)]
    return "  ".join([*texts, target]).rstrip()


def _digits(value: float) -> str:
    """A number to three digits or more, never in powers of ten."""
    for limit, digits in ((1, 3), (10, 2), (100, 1)):
        if value < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"
