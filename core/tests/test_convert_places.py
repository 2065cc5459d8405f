"""What conversions promise of the places where they write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.tests.raw import counting
from core.tests.toy_checkpoints import AnyFramework, ToyPlugin, loaded, registered, write_toy
from safetensors_core import (
    ConversionError,
    Dtype,
    InvalidInputError,
    convert_file,
    register_framework,
)
from safetensors_core.convert import ConvertedFile

TENSORS = {name: counting(Dtype.F32, 3) for name in "abcd"}
STAGING = ".model.safetensors.converting"


@pytest.fixture(autouse=True)
def plugin() -> Iterator[ToyPlugin]:
    with registered(ToyPlugin()) as plugin:
        yield plugin


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "m.toy", TENSORS)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shard_size", [None, 12, 24, 100])
def test_shards_that_are_read_are_never_removed(
    tmp_path: Path, source: Path, shard_size: int | None
) -> None:
    folder = tmp_path / "sharded"
    convert_file(source, folder, shard_size=24)
    register_framework(AnyFramework())
    before = content(folder)
    with pytest.raises(InvalidInputError, match="it is read, and is left as it is"):
        convert_file(folder, rename={"^": "x."}, shard_size=shard_size, overwrite=True)
    assert content(folder) == before


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_found_before_anything_is_written(
    tmp_path: Path, source: Path, plugin: ToyPlugin, kind: str
) -> None:
    target = tmp_path / "out.safetensors"
    target.mkdir() if kind == "folder" else os.mkfifo(target)
    with pytest.raises((IsADirectoryError, InvalidInputError), match=r"out\.safetensors"):
        convert_file(source, target, overwrite=True)
    assert plugin.read == []
    assert sorted(os.listdir(tmp_path)) == ["m.toy", "out.safetensors"]


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out" / "model.safetensors"

    def appear(_: ConvertedFile) -> None:
        target.write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        convert_file(source, tmp_path / "out", on_file=appear)
    assert target.read_bytes() == b"mine"


def test_a_name_that_is_no_utf_8_is_for_a_single_file(tmp_path: Path, source: Path) -> None:
    strange = source.rename(tmp_path / os.fsdecode(b"\xff.toy"))
    with pytest.raises(InvalidInputError, match=r"an index cannot name files like .*no UTF-8"):
        convert_file(strange, shard_size=12)
    assert os.listdir(tmp_path) == [strange.name]
    assert loaded(Path(convert_file(strange).files[0].path)) == TENSORS


def test_what_replaces_a_file_has_its_mode(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out" / "model.safetensors"
    target.parent.mkdir()
    target.touch(0o600)
    convert_file(source, tmp_path / "out", overwrite=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others")
def test_what_replaces_a_file_has_its_owner(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out" / "model.safetensors"
    target.parent.mkdir()
    target.touch()
    os.chown(target, 1234, 5678)
    convert_file(source, tmp_path / "out", overwrite=True)
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 5678)


def test_what_waits_cannot_be_read_by_others(tmp_path: Path, source: Path) -> None:
    modes = []

    def look(_: ConvertedFile) -> None:
        modes.append(stat.S_IMODE((tmp_path / "out" / STAGING).stat().st_mode))

    convert_file(source, tmp_path / "out", on_file=look)
    assert modes == [0o700]


@pytest.mark.parametrize("thing", ["link to a folder", "link to nothing", "file"])
def test_a_hidden_folder_that_is_none_is_neither_followed_nor_emptied(
    tmp_path: Path, source: Path, thing: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    staging = tmp_path / "out" / STAGING
    staging.parent.mkdir()
    if thing == "file":
        staging.touch()
    else:
        staging.symlink_to(precious if thing == "link to a folder" else tmp_path / "nothing")
    with pytest.raises(ConversionError, match="finished files would wait in a folder of this name"):
        convert_file(source, tmp_path / "out")
    assert os.listdir(precious) == ["file"]
    assert os.listdir(tmp_path / "out") == [STAGING]


def test_the_result_may_go_into_a_folder_that_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "m.toy.d"
    folder.mkdir()
    source = write_toy(folder / "m.toy", TENSORS)
    convert_file(source, folder / "out", shard_size=12)
    assert loaded(folder / "out") == TENSORS


def test_a_file_of_the_result_holds_what_several_files_held(tmp_path: Path, source: Path) -> None:
    convert_file(source, tmp_path / "shards", shard_size=12)
    register_framework(AnyFramework())
    result = convert_file(tmp_path / "shards", tmp_path / "one.safetensors")
    assert [file.path for file in result.files] == [str(tmp_path / "one.safetensors")]
    assert (result.index_location, loaded(tmp_path / "one.safetensors")) == (None, TENSORS)


def test_a_file_of_the_result_gives_shards_their_names(tmp_path: Path, source: Path) -> None:
    result = convert_file(source, tmp_path / "one.safetensors", shard_size=24)
    assert [os.path.basename(file.path) for file in result.files] == [
        "one-00001-of-00002.safetensors",
        "one-00002-of-00002.safetensors",
    ]


def test_an_empty_place_is_an_error(source: Path) -> None:
    with pytest.raises(InvalidInputError, match="the place of the result is empty"):
        convert_file(source, "")


def test_a_name_may_be_long(tmp_path: Path, source: Path) -> None:
    target = tmp_path / f"{'m' * 230}.safetensors"
    convert_file(source, target)
    assert loaded(target) == TENSORS
