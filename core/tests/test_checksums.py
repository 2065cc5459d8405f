"""SHA-256 sums: what they are made of, where they are written, and that they are compared."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from core.tests.checkpoints import INDEX
from core.tests.command_line import run
from core.tests.raw import file_bytes
from core.tests.sharded import FILES, FIRST, SECOND, THIRD, checkpoint
from core.tests.summed import MIXED, SUMS, ZERO, codes, digest, flip
from safetensors_core import (
    InvalidInputError,
)
from safetensors_core.checkpoint import checksums
from safetensors_core.checkpoint.checksums import (
    compute_sums,
    encode_sums,
    parse_sums,
)
from safetensors_core.checkpoint.sealing import write_checksums
from safetensors_core.checkpoint.verification import verify_checkpoint
from safetensors_core.sources import MemorySource


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of three files that nothing is wrong with."""
    return checkpoint(tmp_path)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_one_pass_sums_up_the_file_and_every_tensor(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_CHUNK", chunk)
    data = file_bytes(MIXED, {"format": "raw"})
    source = MemorySource(data)
    source.read_header()
    pieces: list[int] = []
    sums = compute_sums(source, pieces.append)
    assert sums.file == digest(data)
    assert sums.tensors == {name: digest(tensor.data) for name, tensor in MIXED.items()}
    assert sum(pieces) == len(data)
    assert max(pieces) <= chunk


def test_files_are_saved_without_sums(model: Path) -> None:
    report = verify_checkpoint(model)
    assert (report.checked, report.tensors_checked) == ([], 0)


# Beside the files.


def test_sums_beside_a_checkpoint_are_those_of_its_files_and_its_index(model: Path) -> None:
    assert write_checksums(model, "beside") == [str(model / SUMS)]
    expected = {name: digest((model / name).read_bytes()) for name in (*FILES, INDEX)}
    assert parse_sums((model / SUMS).read_text("utf-8")) == expected
    report = verify_checkpoint(model)
    assert report.healthy
    assert report.checked == [str(model / name) for name in (*FILES, INDEX)]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
@pytest.mark.parametrize(
    "name", ["a.safetensors", "a b\\c\nd\re.safetensors", "ä\udcff.safetensors"]
)
def test_sha256sum_checks_what_is_written_and_what_it_writes_is_read(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(file_bytes(MIXED))
    [sums] = write_checksums(path, "beside")
    subprocess.run(["sha256sum", "--check", "--strict", sums], cwd=tmp_path, check=True)
    written = subprocess.run(["sha256sum", name], cwd=tmp_path, check=True, capture_output=True)
    Path(sums).write_bytes(written.stdout)
    assert verify_checkpoint(path).checked == [str(path)]
    flip(path, -1)
    assert codes(path) == [("checksum-mismatch", None)]


@pytest.mark.parametrize("name", [*FILES, INDEX])
def test_a_changed_file_does_not_match_its_sum(name: str, model: Path) -> None:
    write_checksums(model, "beside")
    data = (model / name).read_bytes()
    # Nothing else is wrong with a space more or another number.
    data = data + b" " if name == INDEX else data[:-1] + bytes([data[-1] ^ 1])
    (model / name).write_bytes(data)
    report = verify_checkpoint(model)
    assert [(f.code, f.file) for f in report.findings] == [("checksum-mismatch", str(model / name))]
    assert verify_checkpoint(model, checksums=False).healthy


def test_a_file_without_a_sum_and_a_sum_without_a_file_are_faults(model: Path) -> None:
    write_checksums(model, "beside")
    text = (model / SUMS).read_text("utf-8")
    (model / SUMS).write_text(text.replace(SECOND, "model-00009.safetensors"), "utf-8")
    assert sorted(codes(model)) == [("invalid-checksums", None), ("missing-checksum", None)]


def test_sums_of_files_that_are_not_the_checkpoints_do_no_harm(model: Path) -> None:
    write_checksums(model, "beside")
    with (model / SUMS).open("a") as file:
        file.write(f"{ZERO}  README.md\n")
    assert verify_checkpoint(model).findings == []


def test_sums_of_an_index_that_is_gone_are_a_fault(model: Path) -> None:
    write_checksums(model, "beside")
    (model / INDEX).unlink()
    assert codes(model) == [("invalid-checksums", None)]


def test_sums_of_a_file_that_is_gone_are_a_fault(model: Path) -> None:
    (model / INDEX).unlink()
    write_checksums(model, "beside")
    (model / SECOND).unlink()
    assert codes(model) == [("missing-shard", None), ("invalid-checksums", None)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "<html>",
        ZERO,
        f"{ZERO} a",
        f"{ZERO}  \n",
        f"{ZERO[1:]}  a",
        f"{'A' * 64}  a",
        f"{ZERO}  a\n\n",
        f"{ZERO}  a\n{ZERO}  a\n",
    ],
)
def test_a_text_that_is_no_list_of_sums_is_refused(text: str, model: Path) -> None:
    with pytest.raises(InvalidInputError, match="line"):
        parse_sums(text)
    (model / SUMS).write_text(text, "utf-8")
    assert codes(model) == [("invalid-checksums", None)]


def test_names_survive_being_written_and_read() -> None:
    sums = dict.fromkeys(["a", "a b", "\\", "\\n", "a\nb", "\r", " a", "*a", "\udcff"], ZERO)
    assert parse_sums(encode_sums(sums)) == sums


def test_without_an_index_each_file_has_its_own_sums(model: Path) -> None:
    (model / INDEX).unlink()
    assert write_checksums(model, "beside") == [f"{model / file}.sha256sums" for file in FILES]
    assert len(verify_checkpoint(model).checked) == len(FILES)
    # And so a file that goes alone takes its sums along.
    assert verify_checkpoint(model / THIRD).checked == [str(model / THIRD)]


# Refusals, and the command.


def test_sums_are_written_to_local_files_only() -> None:
    with pytest.raises(InvalidInputError, match="URL"):
        write_checksums("https://example.org/model.safetensors", "beside")


def test_a_file_that_other_checkpoints_may_share_is_not_written(model: Path) -> None:
    # The cache of Hugging Face keeps one file for all revisions, and links to it.
    blobs = model.parent / "blobs"
    snapshot = model.parent / "snapshots" / "main"
    snapshot.parent.mkdir()
    blobs.mkdir()
    model.rename(snapshot)
    for name in (*FILES, INDEX):
        (snapshot / name).rename(blobs / name)
        (snapshot / name).symlink_to(blobs / name)
    before = {path.name: path.read_bytes() for path in blobs.iterdir()}
    with pytest.raises(InvalidInputError, match="symbolic link"):
        write_checksums(snapshot, "metadata")
    write_checksums(snapshot, "beside")
    assert {path.name: path.read_bytes() for path in blobs.iterdir()} == before
    assert verify_checkpoint(snapshot).checked == [str(snapshot / n) for n in (*FILES, INDEX)]


def test_an_unknown_place_is_refused(model: Path) -> None:
    with pytest.raises(InvalidInputError, match="beside"):
        write_checksums(model, "elsewhere")  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["beside", "metadata"])
def test_the_command_writes_sums_of_what_is_healthy_only(where: str, model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    (model / SECOND).write_bytes(before[SECOND] + b"\0")
    done = run("verify", model, "--write-checksums", where)
    assert done.returncode == 1
    (model / SECOND).write_bytes(before[SECOND])
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    done = run("verify", model, "--write-checksums", where)
    assert done.returncode == 0
    assert run("verify", model).returncode == 0
    flip(model / SECOND, -1)
    assert run("verify", model).returncode == 1
    assert run("verify", model, "--no-checksums").returncode == 0
    assert run("verify", model, "--write-checksums", where).returncode == 1
    # Who changed the file on purpose says so.
    done = run("verify", model, "--no-checksums", "--write-checksums", where)
    assert done.returncode == 0
    assert run("verify", model).returncode == 0


def test_a_sums_file_that_cannot_be_read_is_no_silence(model: Path) -> None:
    os.mkdir(model / SUMS)
    report = verify_checkpoint(model)
    assert [(finding.severity, finding.code) for finding in report.findings] == [
        ("unreadable", "unreadable")
    ]
    assert FIRST in os.listdir(model)
