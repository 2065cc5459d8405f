"""`verify_checkpoint` finds every fault of files, of an index, and of what lies beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.tests.checkpoints import INDEX, write_index, write_shards
from core.tests.command_line import run
from core.tests.raw import counting, file_bytes
from core.tests.sharded import FILES, FIRST, NBYTES, SECOND, TENSORS, THIRD, WEIGHT_MAP, checkpoint
from safetensors_core import CheckpointError, Dtype, NotASafetensorsRepoError
from safetensors_core.checkpoint.findings import Report
from safetensors_core.checkpoint.metadata import read_metadata
from safetensors_core.checkpoint.verification import verify_checkpoint
from safetensors_core.errors import CheckpointReason
from safetensors_core.replacement import ReplacementFile
from safetensors_core.testing.malformed import MALFORMED, Malformed

PART = ".model.safetensors.0123456789abcdef.safetensors-part"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of three files that nothing is wrong with."""
    return checkpoint(tmp_path)


def found(report: Report) -> set[tuple[str, str, str | None]]:
    """Code, name of the file, and tensor of all that was found."""
    return {(f.code, os.path.basename(f.file), f.tensor) for f in report.findings}


def test_a_good_checkpoint_is_healthy_by_folder_index_and_file(model: Path) -> None:
    for location in (model, model / INDEX, str(model / FIRST)):
        report = verify_checkpoint(location)
        assert report.healthy
        assert report.complete
        assert report.findings == []
    report = verify_checkpoint(model)
    assert (report.files, report.tensors) == (len(FILES), len(TENSORS))
    assert report.nbytes == sum((model / file).stat().st_size for file in FILES)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_a_malformed_file_is_found_with_its_reason(case: Malformed, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(case.file())
    [finding] = verify_checkpoint(path).findings
    assert (finding.severity, finding.code) == ("fault", case.reason)
    assert finding.file == str(path)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_a_malformed_shard_hides_no_fault_of_the_others(case: Malformed, model: Path) -> None:
    (model / FIRST).write_bytes(case.file())
    (model / SECOND).write_bytes(file_bytes(FILES[SECOND])[:-1])
    report = verify_checkpoint(model)
    files = [(finding.code, os.path.basename(finding.file)) for finding in report.findings]
    assert files == [(case.reason, FIRST), ("truncated", SECOND)]


def changed(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the index of a checkpoint."""
    document = json.loads((model / INDEX).read_text("utf-8"))
    change(document)
    (model / INDEX).write_text(json.dumps(document), "utf-8")


# What happens to the index, and what must be found: code, name of the file, tensor.
INDEX_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], set[tuple[str, str, Any]]]] = {
    "a path above the folder": (
        lambda index: index["weight_map"].update(x="../x.safetensors"),
        {("outside-folder", INDEX, None)},
    ),
    "an absolute path": (
        lambda index: index["weight_map"].update(x="/etc/passwd"),
        {("outside-folder", INDEX, None)},
    ),
    "a file that is not there": (
        lambda index: index["weight_map"].update(x="x.safetensors"),
        {("missing-shard", INDEX, None)},
    ),
    "a tensor that its file lacks": (
        lambda index: index["weight_map"].update(x=SECOND),
        {("missing-tensor", SECOND, "x")},
    ),
    "a tensor that the index lacks": (
        lambda index: index["weight_map"].pop("h.0"),
        {("unlisted-tensor", FIRST, "h.0"), ("wrong-total-size", INDEX, None)},
    ),
    "a tensor in another file": (
        lambda index: index["weight_map"].update({"h.0": THIRD}),
        {
            ("missing-tensor", THIRD, "h.0"),
            ("duplicate-tensor", FIRST, "h.0"),
            ("wrong-total-size", INDEX, None),
        },
    ),
    "a size that is too large": (
        lambda index: index["metadata"].update(total_size=NBYTES + 1),
        {("wrong-total-size", INDEX, None)},
    ),
    "a size that is a text": (
        lambda index: index["metadata"].update(total_size=str(NBYTES)),
        {("wrong-total-size", INDEX, None)},
    ),
    "no map": (lambda index: index.pop("weight_map"), {("invalid-index", INDEX, None)}),
    "a number for a file": (
        lambda index: index["weight_map"].update(x=1),
        {("invalid-index", INDEX, None)},
    ),
}


@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_a_fault_of_the_index_is_found(fault: str, model: Path) -> None:
    change, expected = INDEX_FAULTS[fault]
    changed(model, change)
    report = verify_checkpoint(model)
    assert found(report) == expected
    assert not report.healthy
    assert report.complete


def test_every_fault_of_a_checkpoint_is_found_at_once(model: Path) -> None:
    def change(index: dict[str, Any]) -> None:
        index["weight_map"] |= {"x": "../x.safetensors", "y": "gone.safetensors", "z": THIRD}

    changed(model, change)
    (model / FIRST).write_bytes((model / FIRST).read_bytes() + b"\0")
    (model / SECOND).write_bytes(file_bytes({**FILES[SECOND], "more": counting(Dtype.U8, 2)}))
    assert found(verify_checkpoint(model)) == {
        ("outside-folder", INDEX, None),
        ("missing-shard", INDEX, None),
        ("trailing-data", FIRST, None),
        ("unlisted-tensor", SECOND, "more"),
        ("missing-tensor", THIRD, "z"),
    }


def test_an_index_that_is_no_json_leaves_the_files_to_look_into(model: Path) -> None:
    (model / INDEX).write_bytes(b"{")
    (model / THIRD).write_bytes(b"")
    expected = {("invalid-index", INDEX, None), ("empty", THIRD, None)}
    assert found(verify_checkpoint(model)) == expected
    assert found(verify_checkpoint(model / INDEX)) == expected


def test_a_folder_of_two_checkpoints_is_ambiguous(model: Path) -> None:
    for name in ("a", "b"):
        (model / f"{name}.safetensors.index.json").write_bytes((model / INDEX).read_bytes())
    (model / INDEX).unlink()
    report = verify_checkpoint(model)
    assert {finding.code for finding in report.findings} == {"ambiguous"}
    assert report.files == len(FILES)
    assert verify_checkpoint(model / "a.safetensors.index.json").healthy


def test_a_tensor_in_two_files_without_an_index_is_found(model: Path) -> None:
    (model / INDEX).unlink()
    assert verify_checkpoint(model).healthy
    (model / THIRD).write_bytes((model / SECOND).read_bytes())
    assert found(verify_checkpoint(model)) == {
        ("duplicate-tensor", THIRD, name) for name in FILES[SECOND]
    }


def test_a_link_out_of_the_folder_is_found_and_not_followed(model: Path) -> None:
    elsewhere = model.parent / "elsewhere.safetensors"
    (model / SECOND).rename(elsewhere)
    (model / SECOND).symlink_to(elsewhere)
    report = verify_checkpoint(model)
    assert found(report) == {("outside-folder", INDEX, None)}
    assert report.nbytes == sum((model / file).stat().st_size for file in (FIRST, THIRD))


def test_a_file_that_cannot_be_read_is_no_fault_and_nothing_to_call_healthy(model: Path) -> None:
    (model / SECOND).unlink()
    (model / SECOND).mkdir()
    (model / THIRD).write_bytes(b"")
    report = verify_checkpoint(model)
    assert found(report) == {("unreadable", SECOND, None), ("empty", THIRD, None)}
    assert not report.healthy
    assert not report.complete


def test_files_beside_a_checkpoint_are_warned_about(model: Path) -> None:
    (model / "stray.safetensors").write_bytes(file_bytes({}))
    (model / PART).write_bytes(b"")
    (model / "README.md").write_bytes(b"")
    report = verify_checkpoint(model)
    assert found(report) == {
        ("stray-file", "stray.safetensors", None),
        ("leftover", PART, None),
    }
    assert report.healthy


def test_files_of_another_index_are_not_strays(model: Path) -> None:
    (model / "other.safetensors").write_bytes(file_bytes({}))
    text = json.dumps({"weight_map": {"x": "other.safetensors"}})
    (model / "other.safetensors.index.json").write_text(text, "utf-8")
    assert verify_checkpoint(model).findings == []


def test_only_leftovers_of_its_own_are_found_beside_one_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({}))
    (tmp_path / PART).write_bytes(b"")
    (tmp_path / PART.replace("model", "other")).write_bytes(b"")
    assert found(verify_checkpoint(path)) == {("leftover", PART, None)}


def test_a_leftover_beside_a_file_with_a_long_name_is_found(tmp_path: Path) -> None:
    path = tmp_path / f"{'m' * 60}.safetensors"
    path.write_bytes(file_bytes({}))
    with ReplacementFile(path, fsync=False) as file:
        (finding,) = verify_checkpoint(path).findings
        assert (finding.code, finding.file) == ("leftover", file.part.path)


def test_a_file_is_verified_in_a_folder_that_cannot_be_listed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: str) -> list[str]:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "listdir", refuse)  # root may list every folder
    assert verify_checkpoint(model / FIRST).healthy
    with pytest.raises(PermissionError):
        verify_checkpoint(model)


def test_where_there_is_nothing_to_verify_that_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotASafetensorsRepoError):
        verify_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        verify_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError):
        verify_checkpoint(tmp_path / INDEX)


def test_all_reasons_to_reject_a_checkpoint_are_tested_here() -> None:
    tested = {code for _, expected in INDEX_FAULTS.values() for code, _, _ in expected}
    assert {*tested, "ambiguous", "no-checkpoint"} == {reason.value for reason in CheckpointReason}


def test_what_a_reader_refuses_is_not_healthy(model: Path) -> None:
    changed(model, lambda index: index["weight_map"].update(x=SECOND))
    with pytest.raises(CheckpointError) as refused:
        read_metadata(model)
    assert refused.value.reason.value in {f.code for f in verify_checkpoint(model).findings}


# The command.


def test_the_exit_status_says_what_was_found(model: Path) -> None:
    assert run("verify", model).returncode == 0
    (model / "stray.safetensors").write_bytes(file_bytes({}))
    assert run("verify", model).returncode == 0
    (model / FIRST).write_bytes(b"")
    done = run("verify", model)
    assert (done.returncode, done.stderr) == (1, "")
    assert "empty" in done.stdout
    (model / SECOND).unlink()
    (model / SECOND).mkdir()
    assert run("verify", model).returncode == 2
    done = run("verify", model / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file" in done.stderr


def test_json_has_all_findings(model: Path) -> None:
    names = [f"x{i}" for i in range(150)]
    changed(model, lambda index: index["weight_map"].update(dict.fromkeys(names, THIRD)))
    done = run("verify", model, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert (document["healthy"], document["complete"]) == (False, True)
    assert {finding["tensor"] for finding in document["findings"]} == set(names)
    assert document["findings"][0].keys() == {"severity", "code", "file", "tensor", "message"}
    text = run("verify", model).stdout
    assert "150 findings, --json shows all" in text
    assert text.count("missing-tensor") == 100


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    name = "red\x1b[31m\n\u202e"
    model = write_shards(tmp_path / "model", {"a.safetensors": {name: counting(Dtype.U8, 1)}})
    write_index(model, {f"{name}2": f"{name}.safetensors"}, {"total_size\x1b": 1})
    done = run("verify", model)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert json.loads(run("verify", model, "--json").stdout)["healthy"] is False


def test_the_map_of_the_corpus_is_that_of_the_files() -> None:
    assert WEIGHT_MAP.keys() == TENSORS.keys()
