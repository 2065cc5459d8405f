"""`python -m benchmarks compare A.json B.json`: what is faster or slower in the second run."""

from __future__ import annotations

from typing import Any

from benchmarks.ratio import ERRORS
from benchmarks.report import amount, times

__all__ = ["compare", "regressions"]


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Two runs, side by side for each case and side that both have measured.

    Args:
        before: Document of a run.
        after: Document of another.

    Returns:
        A table of Markdown, with notes on what cannot be compared.
    """
    lines = ["| case | side | before | after | ratio | |", "|---|---|--:|--:|--:|---|"]
    olds, news = ({case["name"]: case for case in run["cases"]} for run in (before, after))
    for name in olds.keys() & news.keys():
        assert olds[name]["metric"] == news[name]["metric"]
    for name, new in news.items():
        if name not in olds:
            continue
        old, metric = olds[name], new["metric"]
        for side in (s for s in new["sides"] if s in old["sides"]):
            was, now = old["sides"][side], new["sides"][side]
            ratio = times(metric, now["median"], was["median"])
            cells = [f"`{name}`", side, amount(metric, was["median"])]
            cells += [amount(metric, now["median"]), ratio, _verdict(metric, was, now)]
            lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    notes = [
        f"- {what} differs: {before['machine'][what]}, then {after['machine'][what]}"
        for what in ("cpu", "cores", "system", "python", "packages")
        if before["machine"][what] != after["machine"][what]
    ]
    notes += [f"- only before: `{name}`" for name in olds if name not in news]
    notes += [f"- only after: `{name}`" for name in news if name not in olds]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def regressions(before: dict[str, Any], after: dict[str, Any], above: float) -> list[str]:
    """Cases in which ours takes more than before, by more than the runs scatter.

    Args:
        before: Document of a run.
        after: Document of another.
        above: How many times as much is too much.

    Returns:
        Their names.
    """
    olds = {case["name"]: case["sides"]["ours"] for case in before["cases"]}
    found = []
    for case in after["cases"]:
        was, now, metric = olds.get(case["name"]), case["sides"]["ours"], case["metric"]
        worse = was and _verdict(metric, was, now) in {"SLOWER", "MORE"}
        if was and worse and now["median"] > above * was["median"]:
            found.append(case["name"])
    return found


def _verdict(metric: str, was: dict[str, Any], now: dict[str, Any]) -> str:
    """What can be said beyond the spread: only where no sample of one lies among the other's."""
    worse, better = ("SLOWER", "faster") if metric == "seconds" else ("MORE", "less")
    if now["min"] > was["max"] + ERRORS[metric]:
        return worse
    return better if now["max"] < was["min"] - ERRORS[metric] else ""
