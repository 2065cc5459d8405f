"""What two runs of one program have in common: their results and their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.clients.runner import Run

# With so many keys in its metadata, the reference writes them in an order that changes from run
# to run.
KEYS_IN_ANY_ORDER = 2


@dataclass(frozen=True)
class Comparison:
    """The differences of two runs, and how their files are alike.

    Files of `identical` have the same bytes. Those of `reordered` differ only in the order of
    the keys of their metadata, which the reference leaves to chance: their headers are equal as
    JSON and the data has the same bytes.
    """

    differences: list[str]
    identical: list[str]
    reordered: list[str]


def compare(reference: Run, ours: Run) -> Comparison:
    """Compare the results, and every file that either run wrote."""
    # A result that is missing differs from one that is None.
    sides = [
        {name: repr(value) for name, value in run.results.items()} for run in (reference, ours)
    ]
    differences = [
        f"result {name}: {sides[0].get(name)} != {sides[1].get(name)}"
        for name in sorted(sides[0].keys() | sides[1].keys())
        if sides[0].get(name) != sides[1].get(name)
    ]
    identical, reordered = [], []
    for name in sorted(reference.files.keys() | ours.files.keys()):
        if name not in reference.files or name not in ours.files:
            side = "reference" if name in reference.files else "ours"
            differences.append(f"file {name}: written on {side} alone")
        elif reference.files[name] == ours.files[name]:
            identical.append(name)
        elif only_reordered(reference.folder / name, ours.folder / name):
            reordered.append(name)
        else:
            differences.append(f"file {name}: other bytes")
    return Comparison(differences, identical, reordered)


def only_reordered(reference: Path, ours: Path) -> bool:
    """Whether two files differ in nothing but the order in which metadata keys are written."""
    if reference.suffix != ".safetensors":
        return False
    header, data = header_and_data(reference)
    if len(header.get("__metadata__", {})) < KEYS_IN_ANY_ORDER:
        return False
    return (header, data) == header_and_data(ours)


def header_and_data(path: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    """The header of a file as JSON, and the bytes that follow it."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, object]] = json.loads(content[8:end])
    return header, content[end:]
