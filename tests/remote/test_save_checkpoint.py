"""Checkpoints saved to URLs: the index comes last, and what fails leaves the old one."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safetensors_core import (
    Dtype,
    InvalidInputError,
    TensorSpec,
    load,
    save_checkpoint,
    save_file,
)
from safetensors_core.checkpoint.saving import write_checkpoint
from tests.remote.places import BLOCK, Place

pytest_plugins = ["tests.remote.place_fixtures"]

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


def test_a_missing_folder_is_made_for_a_checkpoint_and_not_for_a_file(disk: Place) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        save_file(CHECKPOINT, f"{disk.url}/a/b/m")
    assert caught.value.filename == f"{disk.url}/a/b/m"
    save_checkpoint(CHECKPOINT, f"{disk.url}/a/b", "4kB")
    assert Place(f"{disk.url}/a/b", {}).names() == THREE


def test_a_missing_bucket_is_not_made(s3: Place) -> None:
    with pytest.raises(FileNotFoundError):
        save_checkpoint(CHECKPOINT, "s3://no-such-bucket/m", storage_options=s3.options)
    assert s3.filesystem.ls("") == ["bucket"]


def test_http_cannot_be_written_to() -> None:
    with pytest.raises(InvalidInputError, match="cannot be written to over HTTP"):
        save_checkpoint(CHECKPOINT, "https://example.org/model")
