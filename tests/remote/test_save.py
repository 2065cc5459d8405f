"""Files saved to URLs: visible when they are complete, and otherwise not at all."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safetensors_core import (
    InvalidInputError,
    RemoteError,
    load,
    parse_header,
    save,
    save_file,
)
from tests.remote.places import BLOCK, Place, stream

pytest_plugins = ["tests.remote.place_fixtures"]

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, dtype=np.float64)}


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


@pytest.mark.parametrize("url", ["unheard-of://bucket/m", "s3://bucket/m"])
def test_a_url_that_nobody_knows_and_options_that_do_not_fit_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        save_file(TENSORS, url, storage_options={"max_concurrency": 0})


def test_a_file_system_that_cannot_be_written_to_says_so() -> None:
    with pytest.raises(RemoteError, match=r"data://m: writing failed: Read only"):
        save_file(TENSORS, "data://m")


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
