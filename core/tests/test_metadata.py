"""`read_metadata` of files, folders and indexes of this machine, without a framework."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from core.tests.raw import RawTensor, counting, file_bytes
from safetensors_core import (
    CheckpointError,
    Dtype,
    HeaderError,
    InvalidInputError,
    NotASafetensorsRepoError,
    read_header,
    read_metadata,
)

FIRST = {"a": counting(Dtype.F32, 2, 3), "mask": counting(Dtype.BOOL, 5)}
SECOND = {
    "b": counting(Dtype.F32, 4),
    "scalar": counting(Dtype.I64),
    "empty": counting(Dtype.U8, 0),
}
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WEIGHT_MAP = {**dict.fromkeys(FIRST, ONE), **dict.fromkeys(SECOND, TWO)}


def write(folder: Path, shards: dict[str, dict[str, RawTensor]]) -> None:
    for name, tensors in shards.items():
        (folder / name).write_bytes(file_bytes(tensors, {"format": "pt"}))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write(tmp_path, {ONE: FIRST, TWO: SECOND})
    size = sum(len(tensor.data) for tensor in [*FIRST.values(), *SECOND.values()])
    index = {"metadata": {"total_size": size, "note": "kept"}, "weight_map": WEIGHT_MAP}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_a_file_has_its_header_under_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, {"mine.safetensors": FIRST})
    metadata = read_metadata(tmp_path / "mine.safetensors")
    assert not metadata.sharded
    assert metadata.metadata is None
    assert metadata.weight_map == {"a": "mine.safetensors", "mask": "mine.safetensors"}
    assert metadata.files == {"mine.safetensors": read_header(tmp_path / "mine.safetensors")}
    assert metadata.files["mine.safetensors"].metadata == {"format": "pt"}


def test_a_file_may_be_given_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    write(tmp_path / "models", {"mine.safetensors": FIRST})
    monkeypatch.chdir(tmp_path)
    assert list(read_metadata("models/mine.safetensors").files) == ["mine.safetensors"]


def test_a_folder_with_one_file_is_not_sharded(tmp_path: Path) -> None:
    write(tmp_path, {"model.safetensors": SECOND})
    metadata = read_metadata(tmp_path)
    assert not metadata.sharded
    assert metadata.metadata is None
    assert metadata.weight_map == dict.fromkeys(SECOND, "model.safetensors")


@pytest.mark.parametrize("name", ["", "model.safetensors.index.json"])
def test_a_folder_and_its_index_stand_for_all_shards(sharded: Path, name: str) -> None:
    metadata = read_metadata(sharded / name)
    assert metadata.sharded
    assert metadata.metadata == {"total_size": 53, "note": "kept"}
    assert metadata.weight_map == WEIGHT_MAP
    assert metadata.files == {file: read_header(sharded / file) for file in (ONE, TWO)}


def test_parameters_and_bytes_are_counted_over_all_files(sharded: Path) -> None:
    metadata = read_metadata(sharded)
    assert metadata.parameter_count == {"F32": 10, "BOOL": 5, "I64": 1, "U8": 0}
    assert metadata.total_size == 53


def test_packed_elements_are_counted_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, {"model.safetensors": {"w": counting(Dtype.F4, 4, 6)}})
    metadata = read_metadata(tmp_path)
    assert metadata.parameter_count == {"F4": 24}
    assert metadata.total_size == 12


def test_metadata_survives_pickle(sharded: Path) -> None:
    metadata = read_metadata(sharded)
    assert pickle.loads(pickle.dumps(metadata)) == metadata


def test_progress_counts_up_to_the_number_of_files(sharded: Path) -> None:
    calls: list[tuple[int, int]] = []
    read_metadata(sharded, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotASafetensorsRepoError) as caught:
        read_metadata(tmp_path)
    assert {"model.safetensors.index.json", "model.safetensors"} <= set(caught.value.names)


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    (sharded / TWO).write_bytes(b"no header")
    with pytest.raises(HeaderError) as caught:
        read_metadata(sharded)
    assert str(sharded / TWO) in str(caught.value)


def test_a_tensor_in_two_files_is_refused_where_no_index_says_which(tmp_path: Path) -> None:
    write(tmp_path, {"one.safetensors": FIRST, "two.safetensors": FIRST})
    with pytest.raises(CheckpointError) as caught:
        read_metadata(tmp_path)
    assert caught.value.reason == "duplicate-tensor"


def test_a_header_longer_than_allowed_is_refused(sharded: Path) -> None:
    with pytest.raises(HeaderError) as caught:
        read_metadata(sharded, max_header=16)
    assert caught.value.reason == "header-too-large"


def test_a_revision_of_a_local_path_is_refused(sharded: Path) -> None:
    with pytest.raises(InvalidInputError, match="revision='v1' is for repositories"):
        read_metadata(sharded, revision="v1")


@pytest.mark.parametrize(
    "location", ["models/none.safetensors", "models/none.json", "/a/b", "a/b/c", "datasets/a"]
)
def test_what_cannot_be_a_repository_is_looked_for_on_this_machine_only(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_metadata(location)


def test_without_huggingface_hub_the_error_about_a_path_says_what_else_it_could_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="pip install huggingface_hub") as caught:
        read_metadata("weights/none")
    assert caught.value.filename == "weights/none"


@pytest.mark.parametrize("location", ["org/name", "buckets/name"])
def test_a_folder_that_looks_like_a_repository_is_the_folder(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.makedirs(tmp_path / location)
    write(tmp_path / location, {"model.safetensors": FIRST})
    monkeypatch.chdir(tmp_path)
    assert list(read_metadata(location).weight_map) == list(FIRST)
