"""SHA-256 sums: what they are made of, where they are written, and that they are compared."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.tests.checkpoints import INDEX
from core.tests.command_line import run
from core.tests.raw import RawTensor, counting, file_bytes
from core.tests.sharded import FILES, FIRST, SECOND, TENSORS, THIRD, checkpoint
from safetensors_core import (
    ByteSource,
    Dtype,
    Header,
    InvalidInputError,
    TensorInfo,
    load_file,
    read_header,
)
from safetensors_core.checkpoint import checksums, sealing
from safetensors_core.checkpoint.checksums import (
    METADATA_KEY,
    compute_sums,
    encode_sums,
    metadata_with_sums,
    parse_sums,
    sums_in_metadata,
)
from safetensors_core.checkpoint.sealing import write_checksums
from safetensors_core.checkpoint.verification import verify_checkpoint
from safetensors_core.sources import MemorySource

SUMS = f"{INDEX}.sha256sums"
ZERO = "00" * 32
# In an order that no writer of ours chooses, with empty ones at every place.
MIXED = {
    "nothing first": counting(Dtype.F32, 0),
    "small": counting(Dtype.U8, 3),
    "": counting(Dtype.I8, 1),
    "large": counting(Dtype.I64, 11),
    "nothing": counting(Dtype.F32, 0, 4),
    "packed": counting(Dtype.F4, 6),
    "nothing last": counting(Dtype.F64, 2, 0),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of three files that nothing is wrong with."""
    return checkpoint(tmp_path)


def digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def codes(location: Path) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.tensor) for finding in verify_checkpoint(location).findings]


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


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
    assert codes(model) == [("invalid-checksums", None)]


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


# In the metadata.


def sealed(tmp_path: Path, tensors: dict[str, RawTensor] = MIXED) -> Path:
    """A file with sums of its tensors."""
    path = tmp_path / "sealed.safetensors"
    path.write_bytes(file_bytes(tensors, {"format": "raw", "a": "b"}))
    write_checksums(path, "metadata")
    return path


def test_sums_in_the_metadata_leave_the_tensors_as_they_are(tmp_path: Path) -> None:
    path = sealed(tmp_path)
    header = read_header(path)
    data = path.read_bytes()[header.data_start :]
    assert {
        name: RawTensor(info.dtype, info.shape, data[slice(*info.data_offsets)])
        for name, info in header.tensors.items()
    } == MIXED
    metadata = header.metadata or {}
    assert metadata.keys() == {"format", "a", METADATA_KEY}
    sums = sums_in_metadata(header)
    assert sums is not None
    assert sums.tensors == {name: digest(tensor.data) for name, tensor in MIXED.items()}
    report = verify_checkpoint(path)
    assert report.healthy
    assert report.tensors_checked == len(MIXED)


def test_sums_are_written_again_to_the_same_bytes(tmp_path: Path) -> None:
    path = sealed(tmp_path)
    before = path.read_bytes()
    write_checksums(path, "metadata")
    assert path.read_bytes() == before


def test_a_file_that_is_sealed_keeps_the_alignment_of_its_data(tmp_path: Path) -> None:
    from safetensors_core import TensorSpec, save_stream

    path = tmp_path / "aligned.safetensors"
    save_stream([("w", TensorSpec(Dtype.U8, (4,)), lambda: [b"1234"])], path, alignment=4096)
    write_checksums(path, "metadata")
    assert read_header(path).data_start % 4096 == 0


def test_all_files_of_a_checkpoint_are_sealed(model: Path) -> None:
    assert write_checksums(model, "metadata") == [str(model / file) for file in FILES]
    report = verify_checkpoint(model)
    assert report.healthy
    assert report.tensors_checked == len(TENSORS)


def test_sums_beside_files_that_are_sealed_are_written_again(model: Path) -> None:
    write_checksums(model, "beside")
    assert write_checksums(model, "metadata")[-1] == str(model / SUMS)
    report = verify_checkpoint(model)
    assert report.healthy
    assert (len(report.checked), report.tensors_checked) == (len(FILES) + 1, len(TENSORS))


@pytest.mark.parametrize("name", [name for name, tensor in MIXED.items() if tensor.data])
def test_a_changed_tensor_is_named(name: str, tmp_path: Path) -> None:
    path = sealed(tmp_path)
    header = read_header(path)
    flip(path, header.data_start + header.tensors[name].data_offsets[1] - 1)
    assert codes(path) == [("checksum-mismatch", name)]
    assert verify_checkpoint(path, checksums=False).healthy


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"a":"b"', '"a":"c"'),
        ('"a":"b"', '"b":"b"'),
        ('"small":{"dtype"', '"snall":{"dtype"'),
        ('"dtype":"I64"', '"dtype":"U64"'),
        ('"shape":[0,4]', '"shape":[0,5]'),
        ('"shape":[0,4]', '"shape":[4,0]'),
    ],
)
def test_a_header_that_says_something_else_does_not_match(
    old: str, new: str, tmp_path: Path
) -> None:
    path = sealed(tmp_path)
    before = path.read_bytes()
    assert before.count(old.encode()) == 1
    path.write_bytes(before.replace(old.encode(), new.encode()))
    assert ("checksum-mismatch", None) in codes(path)


def test_tensors_that_come_in_another_order_still_match(tmp_path: Path) -> None:
    path = sealed(tmp_path)
    turned = dict(reversed(MIXED.items()))
    path.write_bytes(file_bytes(turned, read_header(path).metadata))
    assert verify_checkpoint(path).findings == []


def test_a_tensor_without_a_sum_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(MIXED))
    sums = {name: digest(tensor.data) for name, tensor in MIXED.items()}
    del sums["large"]
    path.write_bytes(file_bytes(MIXED, metadata_with_sums(read_header(path), sums)))
    assert codes(path) == [("missing-checksum", "large")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 5000,
        '{"header":"","tensors":{}}',
        f'{{"header":"{ZERO}"}}',
        f'{{"header":"{ZERO}","tensors":["{ZERO}"]}}',
        f'{{"header":"{ZERO}","tensors":{{"a":1}}}}',
        f'{{"header":"{ZERO}","tensors":{{"a":"{ZERO}","a":"{ZERO}"}}}}',
        f'{{"header":"{ZERO}","tensors":{{}},"more":1}}',
    ],
)
def test_sums_in_the_metadata_that_cannot_be_read_are_a_fault(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(MIXED, {METADATA_KEY: text}))
    assert codes(path) == [("invalid-checksums", None)]


def test_metadata_is_not_changed_by_adding_sums_to_it() -> None:
    metadata = {"format": "raw"}
    assert metadata_with_sums(Header({}, metadata, 8), {}).keys() == {"format", METADATA_KEY}
    assert metadata == {"format": "raw"}


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


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(MIXED))
    before = path.read_bytes()
    chunks = sealing._chunks

    def cut_off(source: ByteSource, info: TensorInfo) -> Iterator[memoryview]:
        yield from chunks(source, info)
        raise OSError(5, "Input/output error", source.location)

    monkeypatch.setattr(sealing, "_chunks", cut_off)
    with pytest.raises(OSError, match="Input/output error"):
        write_checksums(path, "metadata")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


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


def test_a_sealed_file_loads_as_before(tmp_path: Path) -> None:
    pytest.importorskip("safetensors_numpy")
    tensors = {"w": counting(Dtype.I32, 3)}
    path = sealed(tmp_path, tensors)
    assert load_file(path)["w"].tobytes() == bytes(tensors["w"].data)


def test_a_sums_file_that_cannot_be_read_is_no_silence(model: Path) -> None:
    os.mkdir(model / SUMS)
    report = verify_checkpoint(model)
    assert [(finding.severity, finding.code) for finding in report.findings] == [
        ("unreadable", "unreadable")
    ]
    assert FIRST in os.listdir(model)
