"""What the command line promises of `inspect` for checkpoints of several files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.tests.checkpoints import write_index
from core.tests.command_line import run, write_file

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of two tensors and one, and their index."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_file(folder / SHARDS[0], ["wte", "wpe"], {"format": "pt"})
    write_file(folder / SHARDS[1], ["head"], {"format": "pt"})
    weight_map = {"wte": SHARDS[0], "wpe": SHARDS[0], "head": SHARDS[1]}
    write_index(folder, weight_map, {"total_size": 36, "config": {"layers": [1, 2]}})
    return folder


def sizes(folder: Path) -> list[int]:
    return [(folder / name).stat().st_size for name in SHARDS]


def test_a_checkpoint_is_one_line_per_file_and_totals(folder: Path) -> None:
    done = run("inspect", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{folder}: 2 files, {sum(sizes(folder))} bytes, 3 tensors",
        "",
        "file                              tensors  parameters  bytes",
        "model-00001-of-00002.safetensors        2          12     24",
        "model-00002-of-00002.safetensors        1           6     12",
        "",
        "dtype  tensors  parameters  bytes",
        "F16          3          18     36",
        "total        3          18     36",
        "",
        "metadata of the index:",
        "  total_size: 36",
        '  config: {"layers": [1, 2]}',
        "metadata of model-00001-of-00002.safetensors and 1 more:",
        "  format: pt",
    ]


def test_an_index_stands_for_its_files(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    of_folder = run("inspect", folder).stdout.split("\n", 1)[1]
    assert run("inspect", index).stdout.split("\n", 1)[1] == of_folder


def test_json_has_all_files_with_what_inspect_says_of_each(folder: Path) -> None:
    document = json.loads(run("inspect", folder, "--json").stdout)
    alone = {name: json.loads(run("inspect", folder / name, "--json").stdout) for name in SHARDS}
    for of_file in alone.values():
        for key in ["path", "dtypes", "total"]:
            del of_file[key]
    assert document == {
        "path": str(folder),
        "nbytes": sum(sizes(folder)),
        "sharded": True,
        "metadata": {"total_size": 36, "config": {"layers": [1, 2]}},
        "files": alone,
        "dtypes": {"F16": {"tensors": 3, "parameters": 18, "nbytes": 36}},
        "total": {"tensors": 3, "parameters": 18, "nbytes": 36},
        "warnings": [],
    }


def test_a_folder_of_one_file_is_shown_as_a_folder(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", ["w"])
    text = run("inspect", tmp_path).stdout
    assert "1 file, " in text
    assert "\nmodel.safetensors        1           6     12\n" in text
    assert text.endswith("\nmetadata of model.safetensors: none\n")


def test_files_with_different_metadata_are_shown_apart(folder: Path) -> None:
    write_file(folder / SHARDS[1], ["head"], {"format": "tf"})
    text = run("inspect", folder).stdout
    assert f"metadata of {SHARDS[0]}:\n  format: pt\n" in text
    assert f"metadata of {SHARDS[1]}:\n  format: tf\n" in text


def test_what_the_library_warns_of_is_told_on_standard_error_and_in_the_json(folder: Path) -> None:
    weight_map = {"wte": SHARDS[0], "wpe": SHARDS[0], "head": SHARDS[1]}
    write_index(folder, weight_map, {"total_size": 35})
    done = run("inspect", folder)
    assert done.returncode == 0
    assert done.stderr.startswith("safetensors-core: warning: ")
    assert "total_size is 35" in done.stderr
    done = run("inspect", folder, "--json")
    assert done.stderr == ""
    [text] = json.loads(done.stdout)["warnings"]
    assert "total_size is 35" in text


def test_a_missing_file_of_an_index_is_an_error_with_its_reason(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()
    done = run("inspect", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert SHARDS[1] in done.stderr
    document = json.loads(run("inspect", folder, "--json").stdout)
    assert (document["error"], document["reason"]) == ("CheckpointError", "missing-shard")
    assert document["path"] == str(folder / "model.safetensors.index.json")


def test_a_folder_without_safetensors_files_is_an_error_that_says_what_is_missing(
    tmp_path: Path,
) -> None:
    done = run("inspect", tmp_path)
    assert done.returncode == 2
    assert "model.safetensors.index.json" in done.stderr
    document = json.loads(run("inspect", tmp_path, "--json").stdout)
    assert (document["error"], document["reason"]) == ("NotASafetensorsRepoError", "no-checkpoint")
    assert document["path"] == str(tmp_path)


def test_hostile_names_in_an_index_are_inert(tmp_path: Path) -> None:
    hostile = ["red\x1b[31m.safetensors", "two\nlines.safetensors", "evil\u202egnp.safetensors"]
    for file in hostile:
        write_file(tmp_path / file, [file])
    metadata = {"\x1b]0;title\x07": "\x1b[2J", "list": ["\x9b31m", "\ud800"], "total_size": 36}
    write_index(tmp_path, {file: file for file in hostile}, metadata)
    done = run("inspect", tmp_path)
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert "red\\x1b[31m.safetensors " in done.stdout
    done = run("inspect", tmp_path, "--json")
    assert done.stdout.removesuffix("\n").isprintable()
    assert done.stdout.isascii()
    document = json.loads(done.stdout)
    assert sorted(document["files"]) == sorted(hostile)
    assert document["metadata"] == metadata


def test_hostile_names_in_an_index_are_inert_in_an_error(tmp_path: Path) -> None:
    write_index(tmp_path, {"w": "no\x1b[31m\nsuch.safetensors"}, {})
    done = run("inspect", tmp_path)
    assert done.returncode == 2
    assert done.stderr.removesuffix("\n").isprintable()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "s3://bucket/x"])
def test_an_index_cannot_make_inspect_read_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_file(tmp_path / "secret.safetensors", ["secret"])
    write_index(folder, {"w": name}, {})
    document = json.loads(run("inspect", folder, "--json").stdout)
    assert document["reason"] == "outside-folder"


def test_a_revision_is_refused_for_what_is_no_repository(folder: Path) -> None:
    done = run("inspect", folder, "--revision", "main")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Hugging Face Hub" in done.stderr


@pytest.mark.parametrize("option", ["novalue", "=x"])
def test_a_storage_option_without_a_key_or_a_value_is_a_wrong_call(
    folder: Path, option: str
) -> None:
    done = run("inspect", folder, "--storage-option", option)
    assert done.returncode == 2
    assert f"expected KEY=VALUE, got {option!r}" in done.stderr
