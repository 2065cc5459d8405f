"""Files and checkpoints saved to URLs: visible when they are complete, and otherwise not at all."""

from __future__ import annotations

import errno
import gc
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from moto.server import ThreadedMotoServer

from safetensors_core import (
    Dtype,
    InvalidInputError,
    RemoteError,
    TensorSpec,
    load,
    parse_header,
    save,
    save_file,
    save_stream,
)
from safetensors_core.checkpoint.saving import save_checkpoint, write_checkpoint

MIB = 1 << 20
BLOCK = 5 * MIB  # what S3 takes at least as one part

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, dtype=np.float64)}


@dataclass
class Place:
    """A folder of a storage system, as a user and as fsspec know it."""

    url: str
    options: dict[str, Any]

    @property
    def filesystem(self) -> Any:
        filesystem, _ = fsspec.core.url_to_fs(self.url, **self.options)
        filesystem.invalidate_cache()
        return filesystem

    def names(self) -> list[str]:
        """What is visible in the folder."""
        try:
            return sorted(path.rpartition("/")[2] for path in self.filesystem.find(self.url))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        data: bytes = self.filesystem.cat_file(f"{self.url}/{name}")
        return data

    def uploads(self) -> list[Any]:
        """Uploads to S3 that were begun and neither completed nor given up."""
        if not self.url.startswith("s3:"):
            return []
        found = self.filesystem.call_s3("list_multipart_uploads", Bucket="bucket")
        return list(found.get("Uploads", []))


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A server that answers as S3 does."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str) -> Iterator[Place]:
    """An empty bucket."""
    options = {
        "key": "somebody",
        "secret": "s3cr3t",
        "client_kwargs": {"endpoint_url": moto, "region_name": "us-east-1"},
        "default_block_size": BLOCK,
    }
    place = Place("s3://bucket/folder", options)
    place.filesystem.call_s3("create_bucket", Bucket="bucket")
    yield place
    filesystem = place.filesystem
    for upload in place.uploads():
        filesystem.abort_mpu("bucket", upload["Key"], upload["UploadId"])
    filesystem.rm("bucket", recursive=True)


@pytest.fixture
def memory() -> Iterator[Place]:
    """fsspec's own file system, which shows a file as soon as it is opened."""
    place = Place("memory://folder", {})
    yield place
    place.filesystem.store.clear()
    place.filesystem.pseudo_dirs[:] = [""]


class Disk(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system with folders, whose files are seen while they are written."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        stripped: str = super()._strip_protocol(str(path).removeprefix("disk://"))
        return stripped


@pytest.fixture
def disk(tmp_path: Path) -> Place:
    """A folder on such a file system."""
    (tmp_path / "disk").mkdir()
    fsspec.register_implementation("disk", Disk, clobber=True)
    return Place(f"disk://{tmp_path}/disk", {})


@pytest.fixture(params=["s3", "memory", "disk"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


def stream(url: str, size: int, chunks: Callable[[], Any], options: dict[str, Any]) -> None:
    entry = ("w", TensorSpec(Dtype.U8, (size,)), chunks)
    save_stream([entry], url, storage_options=options)


def test_a_file_at_a_url_has_the_bytes_of_a_local_one(place: Place) -> None:
    save_file(TENSORS, f"{place.url}/m", {"by": "me"}, alignment=64, storage_options=place.options)
    assert place.names() == ["m"]
    assert place.read("m") == save(TENSORS, {"by": "me"}, alignment=64)
    assert not place.uploads()


def test_a_file_of_many_parts_arrives_whole(s3: Place) -> None:
    size = 3 * BLOCK + 12345
    data = np.arange(size, dtype=np.uint8)
    save_file({"w": data}, f"{s3.url}/m", storage_options=s3.options)
    assert s3.filesystem.info(f"{s3.url}/m")["ETag"].endswith('-2"')  # 8 MiB at a time
    assert np.array_equal(load(s3.read("m"))["w"], data)
    assert not s3.uploads()


def test_parts_are_so_large_that_s3_takes_all_of_them(
    s3: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safetensors_core.remote_writing._MOST_PARTS", 2)
    stream(f"{s3.url}/m", 3 * BLOCK, lambda: [bytes(BLOCK)] * 3, s3.options)
    assert s3.filesystem.info(f"{s3.url}/m")["ETag"].endswith('-2"')


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("written", [0, 1000, 2 * BLOCK])
@pytest.mark.parametrize("old", [b"the old file", None])
def test_an_exception_leaves_the_old_file_and_no_part_of_the_new_one(
    place: Place, kind: type[BaseException], written: int, old: bytes | None
) -> None:
    if old is not None:
        place.filesystem.pipe_file(f"{place.url}/m", old)

    def fail() -> Iterator[bytes]:
        yield bytes(written)
        # What others see while the file is written.
        visible = [name for name in place.names() if not name.startswith(".")]
        assert visible == ([] if old is None else ["m"])
        raise kind("from the producer")

    with pytest.raises(kind, match="from the producer"):
        stream(f"{place.url}/m", 3 * BLOCK, fail, place.options)
    gc.collect()  # the end of a file of fsspec must not make it visible
    assert place.names() == ([] if old is None else ["m"])
    assert old is None or place.read("m") == old
    assert not place.uploads()


def test_an_upload_that_the_server_refuses_to_complete_leaves_the_old_file(s3: Place) -> None:
    s3.filesystem.pipe_file(f"{s3.url}/m", b"the old file")

    def chunks() -> Iterator[bytes]:
        yield bytes(BLOCK)
        (upload,) = s3.uploads()
        s3.filesystem.abort_mpu("bucket", upload["Key"], upload["UploadId"])
        yield bytes(BLOCK)

    with pytest.raises(OSError, match=r"s3://bucket/folder/m") as caught:
        stream(f"{s3.url}/m", 2 * BLOCK, chunks, s3.options)
    assert type(caught.value).__module__ in {"builtins", "safetensors_core.errors"}
    assert s3.read("m") == b"the old file"
    assert s3.names() == ["m"]
    assert not s3.uploads()


def test_a_missing_bucket_is_a_file_not_found_with_the_url(s3: Place) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        save_file(TENSORS, "s3://no-such-bucket/m", storage_options=s3.options)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "s3://no-such-bucket/m")


def test_a_server_that_is_not_there_is_a_remote_error_with_the_url() -> None:
    options = {
        "key": "somebody",
        "secret": "s3cr3t",
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"},
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(RemoteError) as caught:
        save_file(TENSORS, "s3://bucket/m", storage_options=options)
    assert caught.value.location == "s3://bucket/m"
    assert "s3cr3t" not in str(caught.value)


def test_http_cannot_be_written_to() -> None:
    url = "https://me:secret@example.org/m.safetensors?X-Amz-Signature=0123"
    with pytest.raises(InvalidInputError, match="cannot be written to over HTTP") as caught:
        save_file(TENSORS, url)
    assert "secret" not in str(caught.value)
    assert "0123" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="cannot be written to over HTTP"):
        save_checkpoint(TENSORS, url)


@pytest.mark.parametrize("url", ["unheard-of://bucket/m", "s3://bucket/m"])
def test_a_url_that_nobody_knows_and_options_that_do_not_fit_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        save_file(TENSORS, url, storage_options={"max_concurrency": 0})


def test_a_file_system_that_cannot_be_written_to_says_so() -> None:
    with pytest.raises(RemoteError, match=r"data://m: writing failed: Read only"):
        save_file(TENSORS, "data://m")


def test_a_missing_folder_is_made_for_a_checkpoint_and_not_for_a_file(disk: Place) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        save_file(TENSORS, f"{disk.url}/a/b/m")
    assert caught.value.filename == f"{disk.url}/a/b/m"
    save_checkpoint(CHECKPOINT, f"{disk.url}/a/b", "4kB")
    assert Place(f"{disk.url}/a/b", {}).names() == THREE


def test_a_missing_bucket_is_not_made(s3: Place) -> None:
    with pytest.raises(FileNotFoundError):
        save_checkpoint(CHECKPOINT, "s3://no-such-bucket/m", storage_options=s3.options)
    assert s3.filesystem.ls("") == ["bucket"]


def test_a_local_url_is_saved_as_a_local_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "m")
    save_file(TENSORS, f"file://{tmp_path}/link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "m").read_bytes() == save(TENSORS)


def test_writing_leaves_nothing_to_the_next_transaction_of_the_file_system(s3: Place) -> None:
    filesystem = s3.filesystem
    with pytest.raises(ZeroDivisionError):
        stream(f"{s3.url}/m", 10, lambda: [bytes(1 // 0)], s3.options)
    assert not filesystem.transaction.files
    with filesystem.transaction:
        filesystem.pipe_file(f"{s3.url}/other", b"other")
    assert s3.names() == ["other"]


CHECKPOINT = {name: np.full(1000, i, np.float32) for i, name in enumerate("abc")}
THREE = [
    *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
    "model.safetensors.index.json",
]


def read_checkpoint(place: Place) -> dict[str, Any]:
    """The tensors of the checkpoint at a place, as any loader finds them."""
    if "model.safetensors" in place.names():
        return load(place.read("model.safetensors"))
    weight_map = json.loads(place.read("model.safetensors.index.json"))["weight_map"]
    return {name: load(place.read(file))[name] for name, file in weight_map.items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_checkpoint_at_a_url_has_the_bytes_of_a_local_one(place: Place, tmp_path: Path) -> None:
    here = save_checkpoint(CHECKPOINT, tmp_path, "4kB", {"by": "me"})
    there = save_checkpoint(
        CHECKPOINT, place.url, "4kB", {"by": "me"}, storage_options=place.options
    )
    assert there == here
    assert place.names() == THREE
    assert all(place.read(name) == (tmp_path / name).read_bytes() for name in THREE)
    assert not place.uploads()


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_one_checkpoint_replaces_another_and_nothing_else(
    place: Place, before: int, after: int
) -> None:
    place.filesystem.pipe_file(f"{place.url}/config.json", b"somebody's")
    for factor, count in ((1, before), (2, after)):
        tensors = {name: array * factor for name, array in CHECKPOINT.items()}
        limit = 4000 * -(-3 // count)
        saved = save_checkpoint(tensors, place.url, limit, storage_options=place.options)
        assert_same(read_checkpoint(place), tensors)
        index = ["model.safetensors.index.json"] if count > 1 else []
        assert place.names() == sorted(["config.json", *saved.files, *index])


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_checkpoint_that_fails_while_it_is_sent_leaves_the_old_one(
    place: Place, failing: int
) -> None:
    save_checkpoint(CHECKPOINT, place.url, "4kB", storage_options=place.options)

    def fail() -> Iterator[bytes]:
        yield bytes(10)
        raise KeyboardInterrupt

    entries: list[Any] = [
        (name, TensorSpec(Dtype.U8, (BLOCK,)), lambda: [bytes(BLOCK)]) for name in "abc"
    ]
    entries[failing] = ("abc"[failing], TensorSpec(Dtype.U8, (BLOCK,)), fail)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(entries, place.url, BLOCK, storage_options=place.options)
    gc.collect()
    assert place.names() == THREE
    assert_same(read_checkpoint(place), CHECKPOINT)
    assert not place.uploads()


def test_the_index_becomes_visible_last(s3: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    commit = s3fs.core.S3File.commit
    seen: list[list[str]] = []

    def note(file: Any) -> None:
        commit(file)
        seen.append(s3.names())

    monkeypatch.setattr(s3fs.core.S3File, "commit", note)
    save_checkpoint(CHECKPOINT, s3.url, "4kB", storage_options=s3.options)
    assert seen == [THREE[:1], THREE[:2], THREE[:3], THREE]


def test_a_missing_bucket_is_refused_for_checkpoints_too(s3: Place) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        save_checkpoint(CHECKPOINT, "s3://no-such-bucket/m", storage_options=s3.options)
    assert caught.value.filename.startswith("s3://no-such-bucket/m")


def test_the_header_of_what_was_sent_is_valid(place: Place) -> None:
    stream(f"{place.url}/m", 10, lambda: [bytes(10)], place.options)
    assert parse_header(place.read("m")).tensors["w"].shape == (10,)


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """What would be sent to the Hub: nobody lets a test write there."""
    from huggingface_hub import HfApi, hf_file_system

    sent: dict[str, bytes] = {}

    def resolve(_: Any, path: str, revision: str | None = None) -> Any:
        owner, name, *inside = path.removeprefix("hf://").split("/")
        return hf_file_system.HfFileSystemResolvedRepositoryPath(
            "model", f"{owner}/{name}", revision or "main", "/".join(inside)
        )

    def upload(_: HfApi, *, path_or_fileobj: str, path_in_repo: str, **_others: Any) -> None:
        sent[path_in_repo] = Path(path_or_fileobj).read_bytes()

    monkeypatch.setattr(hf_file_system.HfFileSystem, "resolve_path", resolve)
    monkeypatch.setattr(HfApi, "upload_file", upload)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return sent


def test_a_file_for_the_hub_is_sent_when_it_is_complete(uploaded: dict[str, bytes]) -> None:
    save_file(TENSORS, "hf://org/name/model.safetensors")
    assert uploaded == {"model.safetensors": save(TENSORS)}


@pytest.mark.parametrize("written", [10, 2 * BLOCK + 1])
def test_a_file_for_the_hub_that_fails_is_not_sent_and_leaves_nothing_on_the_disk(
    uploaded: dict[str, bytes], tmp_path: Path, written: int
) -> None:
    def fail() -> Iterator[bytes]:
        yield bytes(written)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream("hf://org/name/model.safetensors", 3 * BLOCK, fail, {})
    gc.collect()
    assert not uploaded
    assert not os.listdir(tmp_path)
