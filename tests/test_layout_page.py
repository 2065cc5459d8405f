"""The page about layout rules, compared with the rules."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors_core.convert.layout_table import Place
from safetensors_core.convert.layouts import read_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "user" / "layout-rules.md"
TABLE = read_table()


def section(heading: str) -> str:
    return PAGE.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]


def listed(text: str) -> list[tuple[str, ...]]:
    """The words of each block of plain text."""
    blocks = re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [tuple(block.split()) for block in blocks]


def cell(place: Place) -> str:
    axes = f"`{place.axes}`" if place.axes else "no axes"
    beside = [f"beside `{last}`" for last in place.beside]
    without = [f"no `{last}`" for last in place.without]
    module = ["by its module"] if place.module else []
    collection = [f"in `{place.collection}`"] if place.collection else []
    return ", ".join([f"`{place.name}`: {axes}", *beside, *without, *module, *collection])


def test_the_table_has_each_rule() -> None:
    rows = [
        f"| {rule.kind} | {' | '.join(cell(rule.places[layout]) for layout in TABLE.layouts)} |"
        for rule in TABLE.rules
    ]
    lines = [line for line in section("The rules").splitlines() if line.startswith("| ")]
    assert lines[1:] == rows


def test_the_names_of_modules_are_those_of_the_rules() -> None:
    places = [rule.places["torch"] for rule in TABLE.rules]
    assert listed(section("The rules")) == [place.module for place in places if place.module]


def test_the_names_that_are_kept_are_those_of_the_rules() -> None:
    assert listed(section("Parameters of no layer")) == [TABLE.kept]


def test_what_is_refused_is_what_the_rules_refuse() -> None:
    refused = [refusal.tensors for refusal in TABLE.refused]
    assert listed(section("What no rule says")) == refused
