"""When the command line shows how far it is, and when it keeps quiet."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from core.tests.checkpoints import write_shards
from core.tests.command_line import run
from core.tests.raw import RawTensor
from core.tests.test_cli_terminal import on_terminal
from safetensors_core import Dtype

MIB = 1024 * 1024

has_tqdm = pytest.mark.skipif(
    importlib.util.find_spec("tqdm") is None, reason="only tqdm draws progress"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three files of one tensor each."""
    tensor = RawTensor(Dtype.U8, (MIB,), bytes(MIB))
    return write_shards(tmp_path / "model", {f"{i}.safetensors": {str(i): tensor} for i in "abc"})


@has_tqdm
def test_a_terminal_sees_how_much_is_copied(tmp_path: Path, model: Path) -> None:
    text = on_terminal("merge", model, tmp_path / "merged")
    assert "copying:" in text
    assert "/3.15M" in text
    # The bar is wiped out before the result is printed in its place.
    assert text.rpartition("\r")[2].startswith(f"{tmp_path / 'merged'}: 1 file, 3 tensors, ")


@has_tqdm
def test_a_terminal_sees_how_many_headers_are_read(model: Path) -> None:
    text = on_terminal("inspect", model)
    assert "reading headers:" in text
    assert text.rpartition("\r")[2].startswith(f"{model}: 3 files, ")


@has_tqdm
@pytest.mark.parametrize(
    ("command", "activities"),
    [
        (["verify", "--write-checksums", "beside"], ["summing up:"]),
        (["split", "--max-shard-size", "1MB"], ["copying:"]),
        (["diff"], ["comparing:"]),
        (["convert"], ["converting:"]),
        (["demo"], ["loading:", "comparing:", "saving:"]),
    ],
)
def test_a_terminal_sees_how_far_a_long_command_is(
    tmp_path: Path, model: Path, command: list[str], activities: list[str]
) -> None:
    if command == ["demo"]:
        pytest.importorskip("safetensors_numpy")
    path = model / "a.safetensors"
    others: dict[str, list[str | Path]] = {
        "convert": [tmp_path / "new.safetensors", "--rename", "a=b"],
        "diff": [model / "a.safetensors"],
        "split": [tmp_path / "new"],
    }
    text = on_terminal(*command, path, *others.get(command[0], []))
    assert [activity for activity in activities if activity not in text] == []


def test_a_terminal_without_tqdm_sees_the_result_alone(tmp_path: Path, model: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    # What the interpreter runs when it starts: tqdm is not to be found.
    (site / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = "
        "lambda name, *rest: None if name == 'tqdm' else find_spec(name, *rest)\n"
    )
    text = on_terminal("merge", model, tmp_path / "merged", PYTHONPATH=str(site))
    assert text.startswith(f"{tmp_path / 'merged'}: 1 file, 3 tensors, ")
    assert text.count("\n") == 1


def test_a_pipe_sees_the_result_alone(tmp_path: Path, model: Path) -> None:
    done = run("merge", model, tmp_path / "merged")
    assert done.stdout.startswith(f"{tmp_path / 'merged'}: 1 file, 3 tensors, ")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_json_on_a_terminal_is_one_line(tmp_path: Path, model: Path) -> None:
    text = on_terminal("merge", model, tmp_path / "merged", "--json")
    assert text.startswith("{")
    assert text.endswith("}\n")
    assert text.count("\n") == 1
