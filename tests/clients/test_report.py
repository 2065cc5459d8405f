"""The page says what was measured, and names what differed or was slower each time."""

from __future__ import annotations

from tests.clients.comparison import Comparison
from tests.clients.measurement import Measurement, Times
from tests.clients.report import page, slower_sections
from tests.clients.runner import Client

MEMORY = Times([2.0**28], [2.0**27])
SAVE = Times([0.004, 0.006, 0.005], [0.002, 0.001, 0.003])
LOAD = Times([0.001, 0.002, 0.001], [0.002, 0.003, 0.004])


def measured(sections: dict[str, Times], differences: list[str] | None = None) -> Measurement:
    comparison = Comparison(differences or [], ["a.safetensors", "b.json"], ["c.safetensors"])
    client = Client("acme", ("acme",))
    return Measurement(client, [("acme", "1.0")], 7, [comparison], sections, MEMORY)


def row(text: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith("| acme 1.0")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_has_the_medians_of_both_sides_and_their_ratio() -> None:
    cells = row(page([measured({"save": SAVE, "load": LOAD})], rounds=3))
    assert cells == [
        "acme 1.0",
        "7 equal",
        "2 + 1 equal",
        "5.00, 2.00",
        "2.50",
        "1.00, 3.00",
        "0.33",
        "256, 128",
        "2.00",
    ]


def test_sections_of_one_kind_are_added_up() -> None:
    total = measured({"save": SAVE, "save sharded": SAVE, "load": LOAD}).total("save")
    assert total == Times([0.008, 0.012, 0.010], [0.004, 0.002, 0.006])


def test_a_difference_stands_in_the_row_and_below_the_table() -> None:
    text = page([measured({"save": SAVE}, ["file a.safetensors: other bytes"])], rounds=1)
    assert row(text)[1:3] == ["**differ**", "**differ**"]
    assert "- **acme** differs: file a.safetensors: other bytes\n" in text


def test_only_what_is_slower_in_every_round_is_called_slower() -> None:
    once_faster = Times([0.001, 0.002, 0.005], [0.002, 0.003, 0.004])
    found = measured({"save": SAVE, "load": LOAD, "load again": once_faster})
    assert slower_sections(found) == ["load"]
    assert "Slower than the reference in every round: acme: load.\n" in page([found], rounds=3)


def test_a_page_without_anything_slower_says_so() -> None:
    text = page([measured({"save": SAVE})], rounds=3)
    assert "Nothing was slower than the reference in every round.\n" in text
