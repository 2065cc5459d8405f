"""`read_metadata` of URLs: what it answers, and what it asks for."""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from safetensors_core import CheckpointError, InvalidInputError, read_metadata, save
from safetensors_core.shards.index import INDEX_FILE
from tests.remote.published import SHARDED, SINGLE, Tensors, write_sharded, write_single
from tests.remote.servers import RangeServer

NEOX = "EleutherAI/gpt-neox-20b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shards, name, _ = SHARDED[NEOX]
    write_sharded(folder / "neox", shards, name)
    write_single(folder / "gpt2", SINGLE["gpt2"][0])
    (folder / "gpt2" / "model.safetensors").rename(folder / "gpt2" / "a b.safetensors")
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as server:
        yield server


@pytest.mark.parametrize("location", ["neox/", f"neox/{INDEX_FILE}"])
def test_a_folder_or_index_on_a_server_takes_one_request_for_each_file(
    server: RangeServer, folder: Path, location: str
) -> None:
    metadata = read_metadata(server.url(location))
    assert metadata == read_metadata(folder / "neox")
    assert metadata.parameter_count == SHARDED[NEOX][2]
    assert len(server.requests) == 1 + len(metadata.files)


def test_the_case_of_a_scheme_means_nothing(server: RangeServer, folder: Path) -> None:
    url = server.url("neox/").replace("http:", "HTTP:")
    assert read_metadata(url) == read_metadata(folder / "neox")


def test_a_file_on_a_server_has_the_name_that_it_has_there(server: RangeServer) -> None:
    metadata = read_metadata(server.url("gpt2/a%20b.safetensors?signature=secret"))
    assert list(metadata.files) == ["a b.safetensors"]
    assert metadata.weight_map == dict.fromkeys(metadata.weight_map, "a b.safetensors")
    assert metadata.parameter_count == SINGLE["gpt2"][1]
    assert len(server.requests) == 1


def test_a_folder_in_a_store_is_read_like_one_of_this_machine(tmp_path: Path) -> None:
    shards, name, _ = SHARDED[NEOX]
    small: list[Tensors] = [
        {key: (dtype, (3,)) for key, (dtype, _) in shard.items()} for shard in shards[:3]
    ]
    write_sharded(tmp_path / "model", small, name)
    store = fsspec.filesystem("memory")
    place = f"/{uuid.uuid4()}"
    store.put(f"{tmp_path}/model/*", f"{place}/")
    try:
        assert read_metadata(f"memory:/{place}") == read_metadata(tmp_path / "model")
        one = read_metadata(f"memory:/{place}/{name.format(1, 3)}")
        assert list(one.files) == [name.format(1, 3)]
    finally:
        store.rm(place, recursive=True)


@pytest.mark.parametrize("cache", ["", "simplecache://::"])
@pytest.mark.parametrize("place", ["", "folder/"])
def test_a_folder_in_an_archive_and_its_index_stand_for_its_files(
    tmp_path: Path, place: str, cache: str
) -> None:
    shards, name, _ = SHARDED[NEOX]
    write_sharded(tmp_path / "model", shards[:2], name)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "model").iterdir():
            archive.write(path, place + path.name)
    for location in (place, place + INDEX_FILE):
        url = f"zip://{location}::{cache}file://{tmp_path}/a.zip"
        assert read_metadata(url) == read_metadata(tmp_path / "model")


def test_the_files_of_a_whole_store_are_found() -> None:
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pipe_file("/model.safetensors", save({}))
    try:
        assert list(read_metadata("memory://").files) == ["model.safetensors"]
    finally:
        store.store.clear()


@pytest.mark.parametrize("url", ["http://[host/model/", "http://host:port/model/"])
def test_a_url_that_is_not_valid_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="not valid"):
        read_metadata(url)


def test_a_shard_that_the_server_lacks_is_named(server: RangeServer, tmp_path: Path) -> None:
    shards, name, _ = SHARDED[NEOX]
    write_sharded(tmp_path / "part", shards[:2], name)
    (tmp_path / "part" / name.format(2, 2)).unlink()
    server.folder = tmp_path
    with pytest.raises(CheckpointError) as caught:
        read_metadata(server.url("part/"))
    assert caught.value.names == [name.format(2, 2)]


def test_a_revision_of_a_url_is_refused(server: RangeServer) -> None:
    with pytest.raises(InvalidInputError, match="revision='v1' is for repositories"):
        read_metadata(server.url("neox/"), revision="v1")
