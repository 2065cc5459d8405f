"""What differs between two runs is seen, and only the order of metadata is let pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.clients import runner
from tests.clients.comparison import compare
from tests.clients.runner import CLIENTS, Client, ProgramFailedError, Run, Side, hashes

TENSORS = {"a": np.arange(4, dtype=np.float32)}
SMALLEST = next(client for client in CLIENTS if client.program == "mlx")


def run_of(folder: Path, results: dict[str, object] | None = None) -> Run:
    return Run(folder, results or {}, {}, hashes(folder), 0)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    reference, ours = tmp_path / "reference", tmp_path / "ours"
    reference.mkdir()
    ours.mkdir()
    return reference, ours


def write(path: Path, metadata: str, data: bytes = bytes(4)) -> None:
    header = f'{{"__metadata__":{metadata},"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)


def test_equal_runs_have_no_differences(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        save_file(TENSORS, folder / "model.safetensors")
    comparison = compare(*(run_of(folder, {"loss": 0.5}) for folder in folders))
    assert comparison.differences == []
    assert comparison.identical == ["model.safetensors"]


def test_another_result_is_a_difference(folders: tuple[Path, Path]) -> None:
    reference, ours = folders
    comparison = compare(run_of(reference, {"loss": 0.5}), run_of(ours, {"loss": 0.25}))
    assert comparison.differences == ["result loss: 0.5 != 0.25"]


def test_a_result_on_one_side_alone_is_a_difference(folders: tuple[Path, Path]) -> None:
    reference, ours = folders
    assert compare(run_of(reference, {"loss": None}), run_of(ours)).differences


def test_a_file_on_one_side_alone_is_a_difference(folders: tuple[Path, Path]) -> None:
    reference, ours = folders
    (ours / "more.json").write_text("{}")
    comparison = compare(run_of(reference), run_of(ours))
    assert comparison.differences == ["file more.json: written on ours alone"]


def test_two_keys_of_metadata_may_stand_in_any_order(folders: tuple[Path, Path]) -> None:
    reference, ours = folders
    write(reference / "model.safetensors", '{"x":"1","y":"2"}')
    write(ours / "model.safetensors", '{"y":"2","x":"1"}')
    comparison = compare(run_of(reference), run_of(ours))
    assert comparison.differences == []
    assert comparison.reordered == ["model.safetensors"]


@pytest.mark.parametrize(
    ("metadata", "data"),
    [('{"y":"2","x":"3"}', bytes(4)), ('{"y":"2","x":"1"}', b"\1\0\0\0"), ('{"y":"2"}', bytes(4))],
    ids=["value", "data", "key"],
)
def test_other_content_is_a_difference_also_with_two_keys_of_metadata(
    metadata: str, data: bytes, folders: tuple[Path, Path]
) -> None:
    reference, ours = folders
    write(reference / "model.safetensors", '{"x":"1","y":"2"}')
    write(ours / "model.safetensors", metadata, data)
    comparison = compare(run_of(reference), run_of(ours))
    assert comparison.differences == ["file model.safetensors: other bytes"]


def test_one_key_of_metadata_excuses_nothing(folders: tuple[Path, Path]) -> None:
    reference, ours = folders
    write(reference / "model.safetensors", '{"x":"1"}')
    write(ours / "model.safetensors", '{"x" :"1"}')
    comparison = compare(run_of(reference), run_of(ours))
    assert comparison.differences == ["file model.safetensors: other bytes"]


def test_a_program_that_uses_the_reference_does_not_count_as_a_run_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = runner.command

    def command_of_the_reference(client: Client, side: Side, folder: Path) -> list[str]:
        del side
        return command(client, Side.REFERENCE, folder)

    monkeypatch.setattr(runner, "command", command_of_the_reference)
    with pytest.raises(ProgramFailedError, match="mlx shall run on ours, but it imported"):
        runner.run(SMALLEST, Side.OURS, tmp_path / "run")


def test_a_program_that_fails_says_so_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailedError, match=r"(?s)reference ended with 1.*No module named"):
        runner.run(Client("no_such_program", ()), Side.REFERENCE, tmp_path / "run")
