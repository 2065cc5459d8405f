"""A checkpoint of several files reads as one file does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.tests.checkpoints import INDEX, write_index
from core.tests.raw import counting, file_bytes, take
from core.tests.sharded import (
    FILES,
    FIRST,
    METADATA,
    NBYTES,
    RAW,
    SECOND,
    TENSORS,
    WEIGHT_MAP,
    checkpoint,
    one_file,
)
from safetensors_core import (
    CheckpointError,
    ClosedFileError,
    Dtype,
    HeaderError,
    TensorNotFoundError,
    load_file,
    read_header,
    safe_open,
)
from safetensors_core.shards.location import find_checkpoint
from safetensors_core.shards.shard_set import ShardSet, open_shards
from safetensors_core.sources import FileSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of three files with an index."""
    return checkpoint(tmp_path)


def the_folder(folder: Path) -> Path:
    return folder


def its_index(folder: Path) -> Path:
    return folder / INDEX


def the_folder_without_an_index(folder: Path) -> str:
    (folder / INDEX).unlink()
    return str(folder)


Locate = Callable[[Path], "Path | str"]
LOCATIONS = [the_folder, its_index, the_folder_without_an_index, one_file]


@pytest.fixture(params=LOCATIONS, ids=lambda locate: locate.__name__)
def location(request: pytest.FixtureRequest, folder: Path) -> Path | str:
    found: Path | str = request.param(folder)
    return found


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_a_checkpoint_reads_as_one_file_does(location: Path | str, backend: Any) -> None:
    with safe_open(location, RAW, backend=backend) as file:
        assert file.keys() == list(file) == sorted(TENSORS)
        assert len(file) == len(TENSORS)
        assert "wte" in file
        assert "lost" not in file
        assert file.metadata() == METADATA
        assert file.get_tensors() == TENSORS
        assert list(file.get_tensors(["h.2", "wte"])) == ["h.2", "wte"]
        assert file.get_tensor("h.1") == TENSORS["h.1"]
        assert file.get_slice("wte")[1:3, ::-2] == take(
            TENSORS["wte"], (slice(1, 3), slice(None, None, -2))
        )
        assert sorted(file.offset_keys()) == sorted(TENSORS)
        shapes = {name: info.shape for name, info in file.header.tensors.items()}
        assert shapes == {name: tensor.shape for name, tensor in TENSORS.items()}
    assert load_file(location, RAW, backend=backend) == TENSORS
    assert load_file(location, RAW, backend=backend, keys=["h.*", "a"]).keys() == {
        "a", "h.0", "h.1", "h.2"
    }  # fmt: skip


def test_a_name_that_no_file_has_is_refused(location: Path | str) -> None:
    with safe_open(location, RAW) as file:
        for ask in (file.get_tensor, file.get_slice, file.locate):
            with pytest.raises(TensorNotFoundError, match=r"no tensor 'wtf'. Did you mean 'wte'"):
                ask("wtf")
        with pytest.raises(TensorNotFoundError, match="'lost'"):
            file.get_tensors(["wte", "lost"])
    with pytest.raises(TensorNotFoundError, match=r"'lost\*'"):
        load_file(location, RAW, keys="lost*")


def test_the_header_of_a_checkpoint_adds_its_files_up(folder: Path) -> None:
    header = read_header(folder)
    assert header.file_nbytes == sum((folder / file).stat().st_size for file in FILES)
    assert header.data_nbytes == NBYTES
    offsets = [info.data_offsets for info in header.tensors.values()]
    assert all(end == begin for (_, end), (begin, _) in pairwise(offsets))


def test_the_order_is_that_of_the_files_and_of_their_bytes(folder: Path) -> None:
    expected = ["wte", "h.0", "h.1", "h.2", "empty", "a"]
    with safe_open(folder, RAW) as file:
        assert file.offset_keys() == expected
        assert list(file.get_tensors()) == expected
        assert [name for name, _ in file.iter_tensors()] == expected
    assert list(load_file(folder, RAW, keys=["a", "empty", "wte", "h.*"])) == expected


def test_a_file_is_opened_when_something_of_it_is_asked_for(folder: Path) -> None:
    (folder / SECOND).write_bytes(b"no header")
    with safe_open(folder, RAW) as file:
        assert len(file) == len(TENSORS)
        assert file.get_tensor("wte") == TENSORS["wte"]
        with pytest.raises(HeaderError, match=SECOND):
            file.get_tensor("h.1")
    assert load_file(folder, RAW, keys=["wte", "a"]).keys() == {"wte", "a"}


def test_who_asks_for_no_tensors_opens_no_file(folder: Path) -> None:
    for file in FILES:
        (folder / file).write_bytes(b"no header")
    with safe_open(folder, RAW) as file_set:
        assert file_set.get_tensors([]) == {}
        assert list(file_set.iter_tensors([])) == []
    assert load_file(folder, RAW, keys=lambda _: False) == {}


def test_a_long_index_does_not_make_the_first_read_longer_than_a_header_may_be(
    folder: Path,
) -> None:
    write_index(folder, {**WEIGHT_MAP, **{f"lost.{n}": FIRST for n in range(100)}}, {})
    read: list[int] = []

    class Watched(FileSource):
        def read_into(self, offset: int, view: memoryview) -> None:
            read.append(len(view))
            super().read_into(offset, view)

    (folder / FIRST).write_bytes(file_bytes({"large": counting(Dtype.U8, 10_000)}))
    shards = ShardSet(find_checkpoint(folder), "pread", max_header=1000)
    shards._open_file = Watched
    with pytest.raises(CheckpointError, match=r"'lost\.0'"):
        shards.source(FIRST)
    assert read == [1008]


def test_a_closed_checkpoint_opens_no_more_files(folder: Path) -> None:
    with safe_open(folder, RAW, backend="pread") as file:
        kept = file.get_tensor("wte")
        rows = file.get_slice("h.1")
    assert kept == TENSORS["wte"]
    for name in ("wte", "a"):
        with pytest.raises(ClosedFileError, match="is closed"):
            file.get_tensor(name)
    with pytest.raises(ClosedFileError, match="is closed"):
        rows[0]


def test_threads_share_a_checkpoint_and_each_file_is_opened_once(folder: Path) -> None:
    shards = open_shards(folder, "pread")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: shards.locate(name)[0], 20 * list(TENSORS)))
    assert len(set(map(id, found))) == len(FILES)


def test_progress_is_told_for_every_file(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    open_shards(folder, "pread").open_all(lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_checkpoint_without_tensors_is_empty(tmp_path: Path) -> None:
    write_index(tmp_path, {}, {"total_size": 0})
    with safe_open(tmp_path, RAW) as file:
        assert (file.keys(), file.metadata(), file.get_tensors()) == ([], None, {})


def test_a_single_file_in_a_set_is_found_without_a_list_of_names(folder: Path) -> None:
    shards: ShardSet = open_shards(one_file(folder), "auto")
    assert shards.names == shards.header.tensors
    assert shards.weight_map == dict.fromkeys(TENSORS, shards.files[0])
