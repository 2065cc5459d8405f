"""Checksums in the metadata of files: what they cover, and that nothing else is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.tests.raw import RawTensor, counting, file_bytes
from core.tests.sharded import FILES, TENSORS, checkpoint
from core.tests.summed import MIXED, SUMS, ZERO, codes, digest, flip
from safetensors_core import ByteSource, Dtype, Header, TensorInfo, load_file, read_header
from safetensors_core.checkpoint import sealing
from safetensors_core.checkpoint.checksums import (
    METADATA_KEY,
    metadata_with_sums,
    sums_in_metadata,
)
from safetensors_core.checkpoint.sealing import write_checksums
from safetensors_core.checkpoint.verification import verify_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of three files that nothing is wrong with."""
    return checkpoint(tmp_path)


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


def test_a_sealed_file_loads_as_before(tmp_path: Path) -> None:
    pytest.importorskip("safetensors_numpy")
    tensors = {"w": counting(Dtype.I32, 3)}
    path = sealed(tmp_path, tensors)
    assert load_file(path)["w"].tobytes() == bytes(tensors["w"].data)
