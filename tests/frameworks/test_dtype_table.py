"""The documented dtypes of a framework are those of its plugin."""

from __future__ import annotations

import pytest

from safetensors_core import Dtype
from tests.frameworks.dtype_table import COLUMNS, PAGE, cells
from tests.frameworks.installed import INSTALLED


@pytest.mark.parametrize("framework", INSTALLED)
def test_the_documented_dtypes_are_those_of_the_plugin(framework: str) -> None:
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    heading, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    column = heading.index(COLUMNS[framework])
    documented = {row[0].strip("`"): row[column] for row in rows[: len(Dtype)]}
    assert documented == cells(framework)
    assert {row[0].strip("`"): int(row[1]) for row in rows[: len(Dtype)]} == {
        dtype.value: dtype.bits for dtype in Dtype
    }
