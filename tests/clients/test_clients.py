"""Programs that know nothing of this project give the same results and files with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.comparison import compare
from tests.clients.runner import CLIENTS, Client, Side, run

PROGRAMS = Path(__file__).with_name("programs")


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.program)
def test_a_program_gives_the_same_results_and_files_as_with_the_reference(
    client: Client, tmp_path: Path
) -> None:
    reference, ours = (run(client, side, tmp_path / side.value) for side in Side)
    comparison = compare(reference, ours)
    assert comparison.differences == []
    # A program that computes or stores nothing would prove nothing.
    assert reference.results
    assert any(name.endswith(".safetensors") for name in reference.files)


def test_every_program_is_run() -> None:
    assert {path.stem for path in PROGRAMS.glob("*.py")} == {client.program for client in CLIENTS}
