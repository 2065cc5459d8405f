"""Of a file that is read, only the bytes of what was asked for are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import counting, file_bytes
from core.tests.sharded import RAW, TENSORS, checkpoint
from safetensors_core import Dtype, load_file, safe_open
from safetensors_core.sources import FileSource

LARGE = {f"w{i}": counting(Dtype.U8, 100_000) for i in range(10)}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """File, position and number of bytes of every read of data."""
    found: list[tuple[str, int, int]] = []

    def note(self: FileSource, ranges: Sequence[tuple[int, memoryview]]) -> None:
        start = self.header.data_start
        found.extend((Path(self.location).name, at - start, len(view)) for at, view in ranges)
        original(self, ranges)

    original = FileSource.read_ranges
    monkeypatch.setattr(FileSource, "read_ranges", note)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(LARGE))
    return path


def test_the_bytes_of_the_tensors_that_were_asked_for_and_no_others(
    path: Path, read: list[tuple[str, int, int]]
) -> None:
    names = ["w7", "w1", "w2"]
    with safe_open(path, RAW, backend="pread") as file:
        assert file.get_tensors(names) == {name: LARGE[name] for name in names}
    assert list(load_file(path, RAW, backend="pread", keys="w9")) == ["w9"]
    # Neighbours in one piece, the others by themselves.
    name = path.name
    assert read == [(name, 100_000, 200_000), (name, 700_000, 100_000), (name, 900_000, 100_000)]


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "F16"}, {"progress": lambda *_: None}], ids=["plain", "dtype", "bar"]
)
def test_only_the_files_and_bytes_of_a_checkpoint_that_are_wanted(
    tmp_path: Path, read: list[tuple[str, int, int]], options: dict[str, Any]
) -> None:
    loaded = load_file(checkpoint(tmp_path), RAW, backend="pread", keys=["a", "h.2"], **options)
    assert loaded == {name: TENSORS[name] for name in ("a", "h.2")}
    assert sorted(read) == [
        ("model-00002-of-00003.safetensors", 40, 1),
        ("model-00003-of-00003.safetensors", 0, 1),
    ]


def test_who_leaves_the_loop_has_no_more_read(path: Path, read: list[tuple[str, int, int]]) -> None:
    with safe_open(path, RAW, backend="pread") as file:
        for name, _ in file.iter_tensors(window="100KB"):
            if name == "w1":
                break
    # What it has, and what was read ahead.
    assert {offset for _, offset, _ in read} <= {0, 100_000, 200_000}
