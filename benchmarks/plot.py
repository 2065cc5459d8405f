"""Drawing a run: bars of its cases, or curves of its costs at scale."""

from __future__ import annotations

import io
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.ratio import ratio

__all__ = ["PlotError", "draw", "require_matplotlib"]

# Each stands out from white and from black: the pages have a light and a dark theme.
_INK = "#7d8590"
_OURS = "#e8590c"
_PEERS = ("#8c959f", "#656d76", "#b4bcc5", "#4f575f")
_LIMIT = "#3d8bfd"
_FAINT = "#7d859040"

_COLUMNS = 4  # panels beside each other
_UNITS = {"seconds": "time", "bytes": "memory"}
_FLOORS = {"seconds": 1e-4, "bytes": 1024.0**2}  # what is less is drawn as much


class PlotError(SystemExit):
    """A run cannot be drawn. A program that does not catch it ends with its message."""


def require_matplotlib() -> None:
    """Find out before a long run whether it can be drawn.

    Raises:
        PlotError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise PlotError("plots are drawn by matplotlib: pip install matplotlib")


def draw(document: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw what a run has measured.

    Args:
        document: The JSON of `python -m benchmarks run` or of `python -m benchmarks scale`.
        path: The file to write; its ending says whether SVG or PNG.

    Raises:
        PlotError: matplotlib is not installed, or nothing was measured.
    """
    require_matplotlib()
    import matplotlib as mpl

    style: Any = {
        # Text stays text: a tenth of the size of its outlines, and readers can search for it.
        "svg.fonttype": "none",
        "svg.hashsalt": "benchmarks",  # the same run gives the same file
        "font.sans-serif": ["DejaVu Sans"],  # a viewer without it takes its own
        "font.size": 8,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": _INK,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "grid.color": _FAINT,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "legend.frameon": False,
        "savefig.transparent": True,
    }
    with mpl.rc_context(style):
        figure = _scale(document) if document.get("kind") == "scale" else _bars(document)
        if not os.fspath(path).endswith(".svg"):
            figure.savefig(path, bbox_inches="tight", dpi=144)
            return
        text = io.StringIO()
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    Path(path).write_text(_smaller(text.getvalue()), "utf-8")


def _smaller(svg: str) -> str:
    """The same picture in a third of the bytes, for a repository and a page."""
    # A hundredth of a point; but texts have versions with dots in them.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    if not re.search(r"<g (?!id=)", svg):  # groups with nothing but a name say nothing
        svg = re.sub(r'<g id="[^"]*">|<g>|</g>', "", svg)
    rules = []
    for number, (style, count) in enumerate(Counter(re.findall(r' style="([^"]*)"', svg)).items()):
        if count > 1:
            svg = svg.replace(f' style="{style}"', f' class="s{number}"')
            rules.append(f".s{number}{{{style}}}")
    svg = svg.replace("</style>", "".join(rules) + "</style>", 1)
    return re.sub(r"\s*\n\s*", "\n", svg)


def _caption(document: dict[str, Any]) -> str:
    """Date, machine and versions, in two lines."""
    machine = document["machine"]
    packages = [f"{name} {found}" for name, found in machine["packages"].items()]
    memory = machine["memory_bytes"] / 1024**3
    place = [
        document.get("date", ""),
        machine["cpu"],
        f"{machine['cores']} cores",
        f"{memory:.0f} GiB",
        machine["system"],
        machine["file_system"] or "",
    ]
    lines = [", ".join(filter(None, place))]
    software = [machine["python"], *(name for name in packages if "-" not in name.split()[0])]
    lines.append(f"{', '.join(software)}; medians of {document['settings']['repeat']}")
    return "\n".join(lines)


def _scale(document: dict[str, Any]) -> Any:
    """A panel for each work and what it costs; panels of one kind have the same axes."""
    from matplotlib.figure import Figure

    if not any(series["points"] for series in document["series"]):
        raise PlotError("the run has measured nothing")
    rows = [
        (axis, metric, works)
        for axis, found in _works(document["series"]).items()
        for first in range(0, len(found), _COLUMNS)
        for works in [dict(found[first : first + _COLUMNS])]
        for metric in _UNITS
        if metric == "seconds" or _highest(found, metric) > _FLOORS[metric]
    ]
    figure = Figure(figsize=(8.5, 1.6 * len(rows) + 0.8), layout="constrained")
    grid = figure.subplots(len(rows), _COLUMNS, squeeze=False)
    for panels, (axis, metric, works) in zip(grid, rows, strict=True):
        known = _works(document["series"])[axis]
        highest = _highest(known, metric)
        sizes = sorted({p["size"] for _, found in known for one in found for p in one["points"]})
        for panel in panels[len(works) :]:
            panel.set_axis_off()
        for panel, (work, found) in zip(panels, works.items(), strict=False):
            panel.set_title(f"{work}: {_UNITS[metric]}")
            _curves(panel, found, metric)
            panel.set_ylim(_FLOORS[metric] * 0.6, highest * 1.7)
            _ticks(panel.xaxis, sizes, [_count(size) for size in sizes])
            labels = _decades(metric, highest)
            _ticks(panel.yaxis, list(labels), list(labels.values()))
            if panel is not panels[0]:
                panel.tick_params(axis="y", left=False, labelleft=False)
            panel.set_xlabel("GB in the file" if axis == "GB" else axis, fontsize=7)
    figure.legend(handles=_legend_lines(), loc="outside upper center", ncols=3)
    figure.supxlabel(_caption(document), fontsize=7, color=_INK)
    return figure


def _works(
    series: Iterable[dict[str, Any]],
) -> dict[str, list[tuple[str, list[dict[str, Any]]]]]:
    """What the sides have shown in each work, by axis."""
    axes: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for one in series:
        axes.setdefault(one["axis"], {}).setdefault(one["work"], []).append(one)
    return {axis: list(works.items()) for axis, works in axes.items()}


def _highest(works: Iterable[tuple[str, list[dict[str, Any]]]], metric: str) -> float:
    found: list[float] = [
        p[metric]["median"] for _, series in works for one in series for p in one["points"]
    ]
    return max([_FLOORS[metric], *found])


def _legend_lines() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=_OURS, marker="o", markersize=4, linewidth=1.8, label="ours"),
        Line2D([], [], color=_PEERS[0], marker="s", markersize=3.5, label="reference"),
        Line2D([], [], color=_LIMIT, linestyle="--", linewidth=1, label="proportional to ours"),
    ]


def _curves(panel: Any, found: Iterable[dict[str, Any]], metric: str) -> None:
    """One work's costs, both axes logarithmic, and the line of a cost that is proportional."""
    floor = _FLOORS[metric]
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.minorticks_off()
    panel.grid(visible=True, axis="y", linewidth=0.5)
    for series in sorted(found, key=lambda one: one["side"] == "ours"):  # ours lies on top
        ours = series["side"] == "ours"
        points = [(p["size"], max(p[metric]["median"], floor)) for p in series["points"]]
        if not points:
            continue
        panel.plot(
            *zip(*points, strict=True),
            color=_OURS if ours else _PEERS[0],
            marker="o" if ours else "s",
            markersize=4 if ours else 3.5,
            linewidth=1.8 if ours else 1.2,
            clip_on=False,
        )
        size, cost = points[-1]
        if ours and cost > floor:
            start = max(points[0][0], size * floor / cost)
            ends = [cost * start / size, cost]
            panel.plot([start, size], ends, color=_LIMIT, linestyle="--", linewidth=1, zorder=1)


def _decades(metric: str, highest: float) -> dict[float, str]:
    """Places and labels of an axis; what is below the first is drawn there."""
    floor = _FLOORS[metric]
    steps = [floor * 10**power for power in range(int(math.log10(highest * 1.7 / floor)) + 1)]
    labels = {step: _time(step) if metric == "seconds" else _size(step) for step in steps}
    return labels | {floor: f"≤ {labels[floor]}"}


def _ticks(axis: Any, places: Sequence[float], labels: Sequence[str]) -> None:
    axis.set_ticks(places, labels)
    axis.set_tick_params(labelsize=7, length=2)


def _count(number: int) -> str:
    for power, letter in ((6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:g}{letter}"
    return str(number)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _size(nbytes: float) -> str:
    if nbytes >= 1024**3:
        return f"{nbytes / 1024**3:.3g} GiB"
    return f"{nbytes / 1024**2:.4g} MiB"


def _bars(document: dict[str, Any]) -> Any:
    """A row for each case: how many times as much as ours each other side takes."""
    from matplotlib.figure import Figure

    cases = [case for case in document["cases"] if _ratios(case)]
    if not cases:
        raise PlotError("the run has no case of ours and another side")
    roles = {name: side["role"] for name, side in document["sides"].items()}
    names = dict.fromkeys(name for case in cases for name in _ratios(case))
    peers = [name for name in names if roles[name] == "peer"]
    colors = dict(zip(peers, itertools.cycle(_PEERS), strict=False))
    every = [1.0, *(times for case in cases for times in _ratios(case).values())]
    every += [target for case in cases for target in _peer_targets(case)]
    lowest, highest = min(every) / 1.4, max(every) * 1.4
    figure = Figure(figsize=(8.5, 0.3 * len(cases) + 1.4), layout="constrained")
    panel = figure.subplots()
    panel.set_xscale("log")
    for place, case in enumerate(cases):
        _bars_of_case(panel, place, case, colors)
    panel.axvline(1, color=_OURS, linewidth=2)
    panel.set_xlim(lowest, highest)
    panel.set_ylim(len(cases) - 0.4, -0.6)
    panel.set_yticks(range(len(cases)), [case["name"] for case in cases])
    panel.tick_params(axis="y", length=0, labelsize=7.5)
    panel.minorticks_off()
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)))
    steps = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    steps = [step for step in steps if lowest <= step <= highest]
    _ticks(panel.xaxis, steps, [f"{step:g}x" for step in steps])
    panel.grid(visible=True, axis="x", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.set_xlabel("what the others take, as a multiple of ours", fontsize=7)
    where = ("axes fraction", "data")
    panel.annotate("ours", (1.01, -0.8), xycoords=where, va="center", weight="bold")
    handles = _bar_legend(colors, [name for name in names if roles[name] == "limit"])
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    figure.supxlabel(_caption(document), fontsize=7, color=_INK)
    return figure


def _ratios(case: dict[str, Any]) -> dict[str, float]:
    """How many times as much as ours the other sides take, where that can be told."""
    ours = case["sides"]["ours"]["median"]
    return {
        name: found
        for name, side in case["sides"].items()
        if name != "ours" and (found := ratio(case["metric"], side["median"], ours)) is not None
    }


def _peer_targets(case: dict[str, Any]) -> list[float]:
    return [target["bound"] for target in case["targets"] if target["kind"] == "peer"]


def _bars_of_case(panel: Any, place: int, case: dict[str, Any], colors: dict[str, str]) -> None:
    ratios = _ratios(case)
    bars = {name: times for name, times in ratios.items() if name in colors}
    height = 0.72 / max(1, len(bars))
    for number, (name, times) in enumerate(bars.items()):
        top = place - 0.36 + number * height
        panel.barh(top, times - 1, 0.9 * height, 1, align="edge", color=colors[name])
    for times in (times for name, times in ratios.items() if name not in colors):
        ends = [place - 0.4, place + 0.4]
        panel.plot([times, times], ends, color=_LIMIT, linestyle="--", linewidth=1.5)
    for bound in _peer_targets(case):
        panel.plot([bound], [place + 0.1], color=_OURS, marker="^", markersize=4)
    median = case["sides"]["ours"]["median"]
    text = _time(median) if case["metric"] == "seconds" else _size(median)
    where = ("axes fraction", "data")
    panel.annotate(text, (1.01, place), xycoords=where, va="center", fontsize=7)


def _bar_legend(colors: dict[str, str], limits: list[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=_OURS, linewidth=2, label="ours")]
    handles += [Patch(color=color, label=name) for name, color in colors.items()]
    if limits:
        label = f"limit: {', '.join(limits)}"
        handles.append(Line2D([], [], color=_LIMIT, linestyle="--", label=label))
    text = "target: the best peer at or beyond it"
    handles.append(Line2D([], [], color=_OURS, marker="^", linestyle="", markersize=4, label=text))
    return handles
