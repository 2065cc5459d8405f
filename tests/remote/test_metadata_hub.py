"""`read_metadata` of repositories of the Hub: published checkpoints, counted as the Hub does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from safetensors_core import (
    CheckpointError,
    CheckpointMetadata,
    Dtype,
    InvalidInputError,
    NotASafetensorsRepoError,
    RemoteError,
    read_metadata,
)
from safetensors_core.shards.index import INDEX_FILE
from tests.remote.hub_server import HubServer, log_out
from tests.remote.published import (
    BLOOM,
    BLOOM_BYTES,
    SHARDED,
    SINGLE,
    Tensors,
    write_sharded,
    write_single,
)

FEW = 65_536  # bytes of the first read of a file of which nothing is known


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_out(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories, in which only the headers take space."""
    folder = tmp_path_factory.mktemp("published")
    for name, (tensors, _) in SINGLE.items():
        write_single(folder / name, tensors)
    for name, (shards, file_name, _) in SHARDED.items():
        write_sharded(folder / name, shards, file_name)
    (folder / "org" / "none").mkdir(parents=True)
    (folder / "org" / "none" / "pytorch_model.bin").write_bytes(b"")
    write_single(folder / "bigscience" / "bloom@v1", SINGLE["gpt2"][0])
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[HubServer]:
    with HubServer(published) as server:
        yield server


def read(hub: HubServer, location: str, **given: Any) -> CheckpointMetadata:
    return read_metadata(location, storage_options=hub.options, **given)


def header_bytes(metadata: CheckpointMetadata) -> int:
    return sum(header.data_start for header in metadata.files.values())


@pytest.mark.parametrize("name", SINGLE)
def test_parameters_of_one_file_are_counted_as_the_hub_does(hub: HubServer, name: str) -> None:
    tensors, counts = SINGLE[name]
    metadata = read(hub, f"hf://{name}")
    assert metadata.parameter_count == counts
    assert metadata.weight_map == dict.fromkeys(metadata.weight_map, "model.safetensors")
    assert metadata.weight_map.keys() == tensors.keys()
    assert (metadata.sharded, metadata.metadata) == (False, None)


@pytest.mark.parametrize("name", SHARDED)
def test_parameters_of_all_shards_are_counted_as_the_hub_does(hub: HubServer, name: str) -> None:
    shards, file_name, counts = SHARDED[name]
    metadata = read(hub, f"hf://{name}")
    assert metadata.parameter_count == counts
    assert metadata.metadata == {"total_size": metadata.total_size}
    assert metadata.weight_map == {
        tensor: file_name.format(number, len(shards))
        for number, shard in enumerate(shards, 1)
        for tensor in shard
    }
    assert metadata.sharded
    assert len(metadata.files) == len(shards)


@pytest.mark.parametrize("name", [name for name in [*SINGLE, *SHARDED] if "/" in name])
def test_the_answer_is_that_of_huggingface_hub(hub: HubServer, name: str) -> None:
    ours = read(hub, name)
    client = huggingface_hub.HfApi(endpoint=hub.url, token=False)
    theirs = client.get_safetensors_metadata(name)
    assert ours.sharded == theirs.sharded
    assert ours.metadata == theirs.metadata
    assert ours.weight_map == theirs.weight_map
    assert ours.parameter_count == theirs.parameter_count
    assert ours.files.keys() == theirs.files_metadata.keys()
    for file, header in ours.files.items():
        found = theirs.files_metadata[file]
        assert header.metadata == found.metadata
        assert {
            tensor: (info.dtype, list(info.shape), info.data_offsets)
            for tensor, info in header.tensors.items()
        } == {
            tensor: (info.dtype, info.shape, info.data_offsets)
            for tensor, info in found.tensors.items()
        }


def test_bloom_is_read_with_one_request_for_each_file(hub: HubServer) -> None:
    metadata = read(hub, BLOOM)
    assert metadata.total_size == BLOOM_BYTES
    assert sorted(hub.read) == sorted([INDEX_FILE, *metadata.files])
    assert len(hub.requests) == 73
    # Beside the headers there are the index, and what is read of the data behind short headers.
    assert hub.sent - header_bytes(metadata) < 1_000_000


def test_where_the_hub_sends_readers_elsewhere_that_is_one_more_request_for_each_file(
    hub: HubServer,
) -> None:
    with HubServer(hub.folder, contents=hub) as front:
        options = {"endpoint": front.url, "token": "hf_secret"}
        assert read_metadata(BLOOM, storage_options=options) == read(hub, BLOOM)
    assert (len(front.requests), front.sent) == (73, 0)
    strangers = hub.requests[:73]
    assert {request.status for request in strangers} == {206}
    assert [request for request in strangers if "authorization" in request.headers] == []


@pytest.mark.parametrize("name", SHARDED)
def test_little_is_read_beside_the_index_and_the_headers(hub: HubServer, name: str) -> None:
    metadata = read(hub, name)
    index = (hub.folder / name / INDEX_FILE).stat().st_size
    # The length of a header is known only once it is read, and is guessed rather too long.
    assert index + header_bytes(metadata) <= hub.sent < index + 2 * header_bytes(metadata)
    assert len(hub.requests) == 1 + len(metadata.files)


def test_one_file_is_read_with_two_requests(hub: HubServer) -> None:
    metadata = read(hub, "hf://gpt2")
    assert metadata.files["model.safetensors"].data_start < FEW
    assert hub.read == [INDEX_FILE, "model.safetensors"]
    assert hub.sent == FEW


def test_a_file_of_a_repository_is_read_with_one_request(hub: HubServer) -> None:
    metadata = read(hub, "hf://gpt2/model.safetensors")
    assert metadata.parameter_count == {"F32": 137_022_720}
    assert list(metadata.files) == ["model.safetensors"]
    assert hub.read == ["model.safetensors"]


def test_an_index_of_a_repository_stands_for_its_files(hub: HubServer) -> None:
    assert read(hub, f"hf://{BLOOM}/{INDEX_FILE}") == read(hub, BLOOM)


def test_a_revision_is_read_instead_of_the_main_branch(hub: HubServer) -> None:
    for location, revision in ((BLOOM, "v1"), (f"hf://{BLOOM}", "v1"), (f"hf://{BLOOM}@v1", None)):
        metadata = read(hub, location, revision=revision)
        assert metadata.parameter_count == {"F32": 137_022_720}


def test_two_revisions_are_refused(hub: HubServer) -> None:
    with pytest.raises(InvalidInputError, match="'v1', but 'v2' was asked for"):
        read(hub, f"hf://{BLOOM}@v1", revision="v2")


def test_progress_counts_up_to_the_number_of_files(hub: HubServer) -> None:
    calls: list[tuple[int, int]] = []
    read(hub, BLOOM, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 72) for done in range(1, 73)]


def test_a_local_folder_goes_before_a_repository_of_its_name(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_single(tmp_path / "here" / BLOOM, SINGLE["gpt2"][0])
    monkeypatch.chdir(tmp_path / "here")
    assert read(hub, BLOOM).parameter_count == {"F32": 137_022_720}
    assert hub.requests == []
    assert read(hub, f"hf://{BLOOM}").parameter_count == {"BF16": 176_247_271_424}


def test_a_repository_without_safetensors_says_what_was_looked_for(hub: HubServer) -> None:
    with pytest.raises(NotASafetensorsRepoError) as caught:
        read(hub, "org/none")
    assert caught.value.location == "hf://org/none"
    assert caught.value.names == ["model.safetensors.index.json", "model.safetensors"]


def test_a_repository_that_does_not_exist_is_not_taken_for_one_without_safetensors(
    hub: HubServer,
) -> None:
    for token in (False, "hf_wrong"):
        with pytest.raises(PermissionError, match="the repository does not exist, or it is priv"):
            read_metadata("org/nowhere", storage_options={"endpoint": hub.url, "token": token})


def test_a_revision_that_does_not_exist_is_not_taken_for_one_without_safetensors(
    hub: HubServer,
) -> None:
    with pytest.raises(RemoteError, match=r"hf://gpt2@v9/.* has no such revision"):
        read(hub, "hf://gpt2", revision="v9")


def test_a_shard_that_the_repository_lacks_is_named(hub: HubServer, tmp_path: Path) -> None:
    shards, file_name, _ = SHARDED["EleutherAI/gpt-neox-20b"]
    write_sharded(tmp_path / "org" / "part", shards[:3], file_name)
    (tmp_path / "org" / "part" / file_name.format(2, 3)).unlink()
    hub.folder = tmp_path
    with pytest.raises(CheckpointError) as caught:
        read(hub, "org/part")
    assert caught.value.reason == "missing-shard"
    assert caught.value.names == [file_name.format(2, 3)]


def test_offline_a_cached_repository_is_read_from_the_cache(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here the data takes space, so it has to be small.
    tensors: Tensors = {"w": (Dtype.F32, (2, 3))}
    write_sharded(tmp_path / "hub" / "org" / "small", [tensors], "model-{:05}-of-{:05}.safetensors")
    write_single(tmp_path / "hub" / "org" / "one", tensors)
    hub.folder = tmp_path / "hub"
    online = {}
    for name, files in (
        ("org/small", [INDEX_FILE, "model-00001-of-00001.safetensors"]),
        ("org/one", ["model.safetensors"]),
    ):
        for file in files:
            huggingface_hub.hf_hub_download(name, file, endpoint=hub.url, token=False)
        online[name] = read(hub, name)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert {name: read(hub, name) for name in online} == online
    assert hub.requests == []
