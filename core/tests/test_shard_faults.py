"""What does not fit together in a checkpoint is refused, with names, or warned of."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from core.tests.checkpoints import INDEX, write_index
from core.tests.raw import counting, file_bytes
from core.tests.sharded import (
    FILES,
    FIRST,
    NBYTES,
    RAW,
    SECOND,
    TENSORS,
    THIRD,
    WEIGHT_MAP,
    checkpoint,
)
from safetensors_core import (
    CheckpointError,
    CheckpointReason,
    CheckpointWarning,
    Dtype,
    InvalidInputError,
    NotASafetensorsRepoError,
    load_file,
    read_header,
    safe_open,
)
from safetensors_core.checkpoint.verification import verify_checkpoint
from safetensors_core.shards.index import (
    SINGLE_FILE,
    ShardIndex,
    encode_index,
    leaves_folder,
    parse_index,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of three files with an index."""
    return checkpoint(tmp_path)


def refused(folder: Path, reason: CheckpointReason, names: Iterable[str]) -> str:
    """Both ways to load refuse a checkpoint, for a reason and with names."""
    message = ""
    for read in (partial(load_file, framework=RAW), read_header):
        with pytest.raises(CheckpointError) as caught:
            read(folder)
        assert (caught.value.reason, caught.value.names) == (reason, list(names))
        message = str(caught.value)
        assert all(repr(name) in message for name in names)
    return message


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "/secret.safetensors", "a/../../secret.safetensors", "..\\secret",
     "C:\\secret.safetensors", "https://example.org/a.safetensors", "s3://bucket/a", "", "a/",
     "a//b", "./a", "a\0b"],
)  # fmt: skip
def test_an_index_that_names_what_is_outside_is_refused(folder: Path, file: str) -> None:
    assert leaves_folder(file)
    write_index(folder, {**WEIGHT_MAP, "wte": file}, {})
    message = refused(folder, CheckpointReason.OUTSIDE_FOLDER, [file])
    assert message.startswith(f"{folder / INDEX}: ")


@pytest.mark.parametrize("with_index", [True, False])
def test_a_link_out_of_the_folder_is_refused(folder: Path, with_index: bool) -> None:
    (folder / SECOND).rename(folder.parent / "elsewhere")
    (folder / SECOND).symlink_to(folder.parent / "elsewhere")
    if not with_index:
        (folder / INDEX).unlink()
    refused(folder, CheckpointReason.OUTSIDE_FOLDER, [SECOND])


def test_a_folder_below_and_links_inside_are_followed(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / SECOND).rename(folder / "below" / SECOND)
    (folder / THIRD).rename(folder / "third")
    (folder / THIRD).symlink_to("third")
    moved = {n: f"below/{f}" if f == SECOND else f for n, f in WEIGHT_MAP.items()}
    write_index(folder, moved, {})
    assert load_file(folder, RAW) == TENSORS


@pytest.mark.parametrize("cache", [".", "snapshots/today"])
def test_the_links_of_the_cache_of_the_hub_are_followed(
    folder: Path, tmp_path: Path, cache: str
) -> None:
    repository = tmp_path / cache / "models--org--name"
    revision = repository / "snapshots" / "0123abcd"
    revision.mkdir(parents=True)
    blobs = repository / "blobs"
    blobs.mkdir()
    for number, file in enumerate([*FILES, INDEX]):
        (folder / file).rename(blobs / str(number))
        (revision / file).symlink_to(f"../../blobs/{number}")
    assert load_file(revision, RAW) == TENSORS
    (revision / FIRST).unlink()
    (revision / FIRST).symlink_to(repository / "secret")
    (repository / "secret").write_bytes(file_bytes(FILES[FIRST]))
    refused(revision, CheckpointReason.OUTSIDE_FOLDER, [FIRST])


def test_files_that_do_not_exist_are_all_named(folder: Path) -> None:
    (folder / SECOND).unlink()
    (folder / THIRD).unlink()
    refused(folder, CheckpointReason.MISSING_SHARD, [SECOND, THIRD])


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["a-00001-of-00003", "a-00003-of-00003", "b"], ["a-00002-of-00003"]),
        (["a-00000-of-00002"], ["a-00001-of-00002"]),
        (["a-00001-of-00001", "b-00002-of-00002"], ["b-00001-of-00002"]),
        (["a-00000-of-00002", "a-00001-of-00002"], []),
        (["a-00001-of-00002", "a-00002-of-00002", "b-1-of-2"], []),
    ],
)
def test_without_an_index_the_names_say_which_files_there_are(
    tmp_path: Path, files: list[str], missing: list[str]
) -> None:
    for file in files:
        content = file_bytes({file: counting(Dtype.U8, 2)})
        (tmp_path / f"{file}.safetensors").write_bytes(content)
    if missing:
        names = [f"{file}.safetensors" for file in missing]
        refused(tmp_path, CheckpointReason.MISSING_SHARD, names)
        [finding, *_] = verify_checkpoint(tmp_path).findings
        assert (finding.code, finding.severity) == ("missing-shard", "fault")
        assert names[0] in finding.message
    else:
        assert sorted(load_file(tmp_path, RAW)) == files
        assert verify_checkpoint(tmp_path).healthy


def test_a_file_that_vanishes_later_is_named(folder: Path) -> None:
    with safe_open(folder, RAW) as file:
        (folder / SECOND).unlink()
        with pytest.raises(CheckpointError, match=SECOND) as caught:
            file.get_tensor("h.1")
    assert caught.value.reason == "missing-shard"


def test_a_tensor_that_its_file_lacks_is_named(folder: Path) -> None:
    write_index(folder, {**WEIGHT_MAP, "lost": SECOND, "gone": SECOND}, {})
    message = refused(folder, CheckpointReason.MISSING_TENSOR, ["gone", "lost"])
    assert SECOND in message


def test_a_tensor_in_two_files_is_named(folder: Path) -> None:
    more = {**FILES[SECOND], "wte": TENSORS["wte"]}
    (folder / SECOND).write_bytes(file_bytes(more))
    refused(folder, CheckpointReason.DUPLICATE_TENSOR, ["wte"])
    (folder / INDEX).unlink()
    refused(folder, CheckpointReason.DUPLICATE_TENSOR, ["wte"])


def test_a_tensor_that_the_index_lacks_is_warned_of_and_left_out(folder: Path) -> None:
    write_index(folder, {n: f for n, f in WEIGHT_MAP.items() if n != "h.2"}, {})
    with pytest.warns(CheckpointWarning, match=f"{SECOND}: the index does not name .*'h.2'"):
        loaded = load_file(folder, RAW)
    assert loaded == {name: tensor for name, tensor in TENSORS.items() if name != "h.2"}


def test_a_wrong_total_size_is_warned_of(folder: Path) -> None:
    write_index(folder, WEIGHT_MAP, {"total_size": 7})
    with pytest.warns(CheckpointWarning, match=f"total_size is 7, .* {NBYTES} bytes"):
        assert load_file(folder, RAW) == TENSORS


def test_a_wrong_total_size_is_warned_of_once(folder: Path) -> None:
    write_index(folder, WEIGHT_MAP, {"total_size": 7})
    with safe_open(folder, RAW) as file, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert file.get_tensors() == file.get_tensors() == TENSORS
    assert len(warned) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_an_index_that_is_no_file_is_refused_and_not_waited_for(folder: Path) -> None:
    (folder / INDEX).unlink()
    os.mkfifo(folder / INDEX)
    with pytest.raises(InvalidInputError, match=f"{INDEX} is not a regular file"):
        safe_open(folder, RAW)


def test_an_index_that_is_too_long_is_refused_unread(folder: Path) -> None:
    os.truncate(folder / INDEX, 10**12)
    with pytest.raises(CheckpointError, match="1,000,000,000,000 bytes") as caught:
        safe_open(folder, RAW)
    assert caught.value.reason == "invalid-index"


def test_a_sound_checkpoint_causes_no_warning(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_file(folder, RAW)
        read_header(folder)


def test_a_folder_with_several_indexes_is_ambiguous(folder: Path) -> None:
    (folder / INDEX).rename(folder / "b.safetensors.index.json")
    (folder / "a.safetensors.index.json").write_bytes(encode_index(ShardIndex({})))
    names = ["a.safetensors.index.json", "b.safetensors.index.json"]
    refused(folder, CheckpointReason.AMBIGUOUS, names)
    assert load_file(folder / names[1], RAW) == TENSORS


def test_of_a_folder_the_index_counts_then_the_single_file(folder: Path) -> None:
    (folder / SINGLE_FILE).write_bytes(file_bytes({"single": counting(Dtype.U8)}))
    assert load_file(folder, RAW).keys() == TENSORS.keys()
    (folder / INDEX).unlink()
    assert load_file(folder, RAW).keys() == {"single"}


def test_a_folder_without_safetensors_files_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / ".model.safetensors").write_bytes(b"")
    with pytest.raises(NotASafetensorsRepoError, match=f"{INDEX}.*{SINGLE_FILE}"):
        load_file(tmp_path, RAW)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"", "Expecting value"),
        (b"[]", "expected a JSON object, found list"),
        (b"{}", "no 'weight_map'"),
        (b'{"weight_map": []}', "'weight_map' must be an object, not list"),
        (b'{"weight_map": {"a": 1}}', "for 'a', weight_map names no file, but 1"),
        (b'{"weight_map": {}, "metadata": 3}', "'metadata' must be an object, not int"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "'a' occurs twice"),
        (b'{"weight_map": {}, "metadata": {"total_size": NaN}}', "NaN is no JSON number"),
        (b'{"weight_map": {"\xff": "a"}}', "utf-8"),
        (b'{"weight_map": {"w\\ud800": "a"}}', r"a lone surrogate in 'w\\ud800'"),
        (b'{"weight_map": {"w": "a\\udc80"}}', r"a lone surrogate in 'a\\udc80'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"metadata": {"total_size": 1' + b"0" * 5000 + b'}, "weight_map": {}}', "digits"),
    ],
)
def test_what_is_no_index_is_refused_with_a_cause(tmp_path: Path, text: bytes, cause: str) -> None:
    path = tmp_path / "x.safetensors.index.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=cause) as caught:
        safe_open(path, RAW)
    assert (caught.value.reason, caught.value.location) == ("invalid-index", str(path))


def test_an_index_comes_back_from_its_bytes() -> None:
    index = ShardIndex({"ü": "ä b.safetensors", "a": "below/a.safetensors"}, {"total_size": 3})
    assert parse_index(encode_index(index), "index") == index
