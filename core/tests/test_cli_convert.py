"""What the command line promises of `convert`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.tests.command_line import run
from core.tests.raw import RawTensor, counting, file_bytes
from core.tests.test_cli_progress import has_tqdm
from core.tests.test_cli_terminal import on_terminal
from core.tests.toy_checkpoints import loaded, write_toy
from core.tests.toy_plugin import install_toy
from safetensors_core import Dtype, read_header

TENSORS = {
    "model.a": counting(Dtype.F32, 4, 5),
    "model.b": counting(Dtype.I64, 3),
    "head.w": counting(Dtype.F16, 6),
}
NBYTES = 80 + 24 + 12
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path / "site", monkeypatch)


@pytest.fixture
def source(home: Path) -> Path:
    return write_toy(home / "m.toy", TENSORS, metadata={"epoch": "3"}, format="pt")


def convert(*arguments: str | Path) -> str:
    """What the command prints that must succeed."""
    done = run("convert", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def events(*arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in convert(*arguments, "--json").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """All that is in and below a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_a_foreign_checkpoint_becomes_safetensors_and_a_line_says_so(
    home: Path, source: Path
) -> None:
    before = source.read_bytes()
    text = convert("m.toy", "out")
    assert re.fullmatch(r"out: 1 file, 3 tensors, 116 bytes in [\d.]+ m?s, verified\n", text)
    assert loaded(home / "out") == TENSORS
    assert read_header(home / "out/model.safetensors").metadata == {"epoch": "3", "format": "pt"}
    assert files(home) == {
        "m.toy": before,
        "out": b"",
        "out/model.safetensors": (home / "out/model.safetensors").read_bytes(),
    }


@pytest.mark.usefixtures("source")
def test_the_result_goes_where_it_is_wanted_and_else_beside_the_source(home: Path) -> None:
    assert convert("m.toy", "new/weights.safetensors").startswith("new/weights.safetensors: 1 file")
    assert loaded(home / "new/weights.safetensors") == TENSORS
    assert convert("m.toy", "--shard-size", "100").startswith(".: 2 files")
    assert loaded(home / "m.toy.safetensors.index.json") == TENSORS


@pytest.mark.usefixtures("source")
def test_what_is_not_compared_is_not_said_to_be_verified() -> None:
    assert convert("m.toy", "out", "--no-verify").endswith("s, not verified\n")
    assert convert("m.toy", "again", "--verify").endswith("s, verified\n")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--rename", r"^model\.="], ["a", "b", "head.w"]),
        (["--rename", r"^(\w+)\.(\w)=\2.\1"], ["a.model", "b.model", "w.head"]),
        (["--rename", "a$=b", "--rename", r"model\.b=x", "--keep", "*a"], ["x"]),
        # The last one divides: what is looked ahead for has one of its own.
        (["--rename", r"model\.(?=b)=only "], ["head.w", "model.a", "only b"]),
        (["--keep", "model.*", "--drop", "*.b"], ["model.a"]),
        (["--drop", "*.a", "--drop", "head.*"], ["model.b"]),
        (["--keep", "*.a", "--keep", "*.w"], ["head.w", "model.a"]),
    ],
)
@pytest.mark.usefixtures("source")
def test_names_are_chosen_and_changed_as_the_options_say(
    home: Path, options: list[str], names: list[str]
) -> None:
    convert("m.toy", "out", *options)
    assert sorted(loaded(home / "out")) == names


@pytest.mark.usefixtures("source")
def test_floating_point_tensors_become_what_is_asked_for(home: Path) -> None:
    convert("m.toy", "out", "--dtype", "float64")
    assert {name: tensor.dtype for name, tensor in loaded(home / "out").items()} == {
        "model.a": Dtype.F64,
        "model.b": Dtype.I64,
        "head.w": Dtype.F64,
    }


def test_the_state_of_an_optimizer_is_converted_if_it_is_asked_for(home: Path) -> None:
    state = {f"m{i:02}": counting(Dtype.F32, 2) for i in range(13)}
    write_toy(home / "m.toy", {"a": counting(Dtype.U8, 3)}, optimizer=state)
    *lines, last = convert("m.toy", "out").splitlines()
    assert lines == [
        *(f"left out: m{i:02} (optimizer)" for i in range(10)),
        "left out: 3 more, --json shows all",
    ]
    assert last.startswith("out: 1 file, 1 tensor, ")
    assert events("m.toy", "out2")[-1]["left_out"] == dict.fromkeys(state, "optimizer")
    assert convert("m.toy", "all", "--optimizer").startswith("all: 1 file, 14 tensors")
    assert loaded(home / "all").keys() == {"a", *state}


def test_names_of_one_tensor_are_counted(home: Path) -> None:
    tensors = dict.fromkeys(["embed", "head", "tied"], counting(Dtype.F32, 3))
    write_toy(home / "two.toy", tensors, keys=dict.fromkeys(["embed", "head"], "same"))
    write_toy(home / "three.toy", tensors, keys=dict.fromkeys(tensors, "same"))
    first, last = convert("two.toy", "two").splitlines()
    assert first == "1 name stands for a tensor that is written under another name"
    assert last.startswith("two: 1 file, 2 tensors, ")
    text = convert("three.toy", "three")
    assert text.startswith("2 names stand for a tensor that is written under another name\n")
    assert events("two.toy", "more")[-1]["aliases"] == {"head": "embed"}


def test_weights_cross_to_another_layout(home: Path) -> None:
    norm = {"norm.weight": counting(Dtype.F32, 3), "norm.bias": counting(Dtype.F32, 3)}
    write_toy(home / "pt.toy", norm, format="pt")
    write_toy(home / "any.toy", norm)
    rules = json.dumps({"modules": [{"torch": "norm", "flax": "first"}]})
    (home / "rules.json").write_text(rules)
    convert("pt.toy", "a", "--to", "flax")
    assert loaded(home / "a").keys() == {"params.norm.scale", "params.norm.bias"}
    convert("any.toy", "b", "--from", "torch", "--to", "flax", "--layout-rules", "rules.json")
    assert loaded(home / "b").keys() == {"params.first.scale", "params.first.bias"}


def test_a_safetensors_checkpoint_is_converted_too(home: Path) -> None:
    (home / "old.safetensors").write_bytes(file_bytes(TENSORS))
    convert("old.safetensors", "new.safetensors", "--rename", "model=decoder")
    assert loaded(home / "new.safetensors").keys() == {"decoder.a", "decoder.b", "head.w"}


@pytest.mark.usefixtures("source")
def test_what_is_there_already_is_left_unless_it_may_be_replaced(home: Path) -> None:
    convert("m.toy", "out", "--keep", "*.a")
    before = files(home)
    done = run("convert", "m.toy", "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pass --overwrite to replace it\n" in done.stderr
    assert files(home) == before
    convert("m.toy", "out", "--overwrite")
    assert loaded(home / "out") == TENSORS


# A dry run.


@pytest.mark.usefixtures("source")
def test_a_dry_run_shows_what_would_be_written_and_writes_nothing(home: Path) -> None:
    before = files(home)
    text = convert("m.toy", "out", "--dry-run", "--shard-size", "110", "--dtype", "f64")
    assert text == (
        "name     dtype      shape   file\n"
        f"model.a  F32 → F64  [4, 5]  {SHARDS[0]}\n"
        f"model.b  I64        [3]     {SHARDS[1]}\n"
        f"head.w   F16 → F64  [6]     {SHARDS[1]}\n"
        "\n"
        "out: 2 files, 3 tensors, 232 bytes; nothing was written\n"
    )
    assert files(home) == before


@pytest.mark.usefixtures("source")
def test_a_dry_run_shows_names_in_the_source_where_they_differ() -> None:
    text = convert("m.toy", "out", "--dry-run", "--keep", "model.*", "--rename", r".*\.=")
    assert text.startswith(
        "name  dtype  shape   file               name in the source\n"
        "a     F32    [4, 5]  model.safetensors  model.a\n"
        "b     I64    [3]     model.safetensors  model.b\n"
    )


def test_a_dry_run_shows_axes_in_another_order(home: Path) -> None:
    write_toy(home / "pt.toy", {"proj.weight": counting(Dtype.F32, 3, 3)}, format="pt")
    text = convert("pt.toy", "out", "--dry-run", "--to", "flax")
    assert re.search(r"^params\.proj\.kernel  F32    \[3, 3\] → \[3, 3\]  ", text, re.MULTILINE)
    [tensor, _] = events("pt.toy", "out", "--dry-run", "--to", "flax")
    assert tensor["axes"] == [1, 0]


@pytest.mark.usefixtures("source")
def test_a_dry_run_tells_programs_every_tensor(home: Path) -> None:
    before = files(home)
    *tensors, done = events("m.toy", "out", "--dry-run", "--dtype", "f64", "--rename", "head=h")
    assert {tensor["event"] for tensor in tensors} == {"tensor"}
    assert [tensor["name"] for tensor in tensors] == ["model.a", "model.b", "h.w"]
    assert tensors[2] == {
        "event": "tensor",
        "name": "h.w",
        "dtype": "F64",
        "shape": [6],
        "nbytes": 48,
        "path": "out/model.safetensors",
        "source": {"name": "head.w", "dtype": "F16", "shape": [6], "path": "m.toy"},
        "axes": None,
    }
    assert (done["event"], done["dry_run"], done["verified"]) == ("done", True, False)
    assert files(home) == before


# JSON.


@pytest.mark.usefixtures("source")
def test_programs_get_a_line_for_each_file_and_one_for_the_end() -> None:
    *written, done = events("m.toy", "out", "--shard-size", "100")
    paths = [f"out/{name}" for name in SHARDS]
    assert written == [
        {"event": "file", "path": paths[0], "tensors": 1, "nbytes": 80, "resumed": False},
        {"event": "file", "path": paths[1], "tensors": 2, "nbytes": 36, "resumed": False},
    ]
    assert done.pop("seconds") >= 0
    assert done == {
        "event": "done",
        "source": "m.toy",
        "target": "out",
        "files": paths,
        "index": f"out/{INDEX}",
        "tensors": 3,
        "nbytes": NBYTES,
        "aliases": {},
        "left_out": {},
        "metadata": {"epoch": "3", "format": "pt"},
        "verified": True,
        "dry_run": False,
        "warnings": [],
    }
    assert events("m.toy", "one")[-1]["index"] is None


# Names and terminals.


def test_hostile_names_and_reasons_are_inert(home: Path) -> None:
    evil = "a\x1b[31m\u202e\nb"
    tensors: dict[str, RawTensor] = {evil: counting(Dtype.U8, 3)}
    write_toy(home / "m.toy", tensors, optimizer={f"{evil}2": counting(Dtype.U8, 3)})
    for arguments in (["m.toy", f"out{evil}", "--dry-run"], ["m.toy", f"out{evil}"]):
        text = convert(*arguments)
        assert all(line.isprintable() for line in text.split("\n"))
        assert "a\\x1b[31m\\u202e\\nb2 (optimizer)" in text
    assert events("m.toy", "again", "--dry-run")[0]["name"] == evil


@has_tqdm
@pytest.mark.usefixtures("source")
def test_a_terminal_sees_how_much_is_converted() -> None:
    text = on_terminal("convert", "m.toy", "out")
    assert "converting:" in text
    assert text.rpartition("\r")[2].startswith("out: 1 file, 3 tensors, ")
