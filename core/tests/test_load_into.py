"""Tensors that exist are filled from a file, without a second copy of it."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawTensor, file_bytes
from core.tests.sharded import FIRST, NBYTES, RAW, SECOND, TENSORS, checkpoint
from core.tests.test_load_dtype import Casting
from safetensors_core import (
    ByteSource,
    Dtype,
    InvalidInputError,
    RemoteError,
    SharedMemoryError,
    StateDictError,
    filling,
    load_into,
)
from safetensors_core.sources import FileSource


class Owned(RawTensor):
    """A tensor with memory of its own, which a file can be read into."""


class Elsewhere(Owned):
    """One whose memory nobody else can write to."""


class Fillable(Casting):
    """Fills tensors, and notes how."""

    name = "fillable"
    assigned: list[int]

    def is_tensor(self, obj: object) -> bool:
        return isinstance(obj, Owned)

    def check_fillable(self, tensors: Any) -> None:
        for name, tensor in tensors.items():
            if tensor.data.readonly:
                raise InvalidInputError(f"tensor {name!r} is read-only")

    def memory(self, tensor: RawTensor) -> memoryview | None:
        assert isinstance(tensor.data, memoryview)
        return None if isinstance(tensor, Elsewhere) else tensor.data

    def assign(self, tensor: RawTensor, value: RawTensor) -> None:
        assert isinstance(tensor.data, memoryview)
        tensor.data[:] = value.data
        self.assigned.append(len(value.data))


@pytest.fixture(autouse=True)
def framework(monkeypatch: pytest.MonkeyPatch) -> Fillable:
    found = Fillable()
    found.assigned = []
    monkeypatch.setattr("safetensors_core.description.get_framework", lambda _tensor: found)
    return found


def zeros(tensor: RawTensor, kind: type[Owned] = Owned, dtype: Dtype | None = None) -> Owned:
    """A tensor to fill, as large as another one."""
    dtype = dtype or tensor.dtype
    elements = len(tensor.data) * 8 // tensor.dtype.bits
    return kind(dtype, tensor.shape, memoryview(bytearray(dtype.nbytes(elements))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of three files with an index."""
    return checkpoint(tmp_path)


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
@pytest.mark.parametrize("kind", [Owned, Elsewhere])
def test_all_files_of_a_checkpoint_fill_tensors(
    folder: Path, backend: Any, kind: type[Owned]
) -> None:
    tensors = {name: zeros(tensor, kind) for name, tensor in reversed(TENSORS.items())}
    assert load_into(tensors, folder, backend=backend) == ([], [])
    assert tensors == TENSORS


def test_a_file_is_read_into_the_memory_of_tensors(
    folder: Path, framework: Fillable, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []

    def note(self: FileSource, ranges: Sequence[tuple[int, memoryview]]) -> None:
        read.extend((offset - self.header.data_start, view.nbytes) for offset, view in ranges)
        original(self, ranges)

    original = FileSource.read_ranges
    monkeypatch.setattr(FileSource, "read_ranges", note)
    tensors = {name: zeros(TENSORS[name]) for name in ("wte", "h.0", "h.2")}
    assert load_into(tensors, folder, strict=False) == ([], ["a", "empty", "h.1"])
    assert tensors == {name: TENSORS[name] for name in tensors}
    # The bytes of these three and no others, once.
    assert read == [(0, 96), (96, 6), (40, 1)]
    assert framework.assigned == []


def test_what_the_file_cannot_be_read_into_comes_a_window_at_a_time(
    folder: Path, framework: Fillable, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []

    def note(self: FileSource, infos: Any, alignment: int = 1) -> Any:
        fetched.append(sum(info.nbytes for info in infos.values()))
        return original(self, infos, alignment)

    original = FileSource.fetch
    monkeypatch.setattr(FileSource, "fetch", note)
    monkeypatch.setattr(filling, "WINDOW", 45)
    tensors = {name: zeros(tensor, Elsewhere) for name, tensor in TENSORS.items()}
    load_into(tensors, folder)
    assert tensors == TENSORS
    assert sorted(fetched) == [1, 6, 41, 96]
    assert sorted(framework.assigned) == [0, 1, 1, 6, 40, 96]


def test_another_floating_point_dtype_is_converted(folder: Path) -> None:
    tensors = {"wte": zeros(TENSORS["wte"], dtype=Dtype.BF16), "h.0": zeros(TENSORS["h.0"])}
    assert isinstance(tensors["wte"].data, memoryview)
    tensors["wte"].data[:] = bytes(range(48))
    load_into(tensors, folder / FIRST)
    assert tensors == {
        "wte": RawTensor(Dtype.BF16, (4, 6), bytes(48)),  # what the test's framework rounds to
        "h.0": TENSORS["h.0"],
    }


@pytest.mark.parametrize("step", [10, 64, 1000])
def test_reports_rise_to_the_bytes_of_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(filling, "WINDOW", step)
    reports: list[tuple[int, int]] = []
    tensors = {
        name: zeros(tensor, Elsewhere if name == "h.0" else Owned)
        for name, tensor in TENSORS.items()
    }
    load_into(tensors, folder, progress=lambda done, total: reports.append((done, total)))
    assert tensors == TENSORS
    assert reports == sorted(set(reports))
    assert reports[-1] == (NBYTES, NBYTES)
    done = [0, *(report[0] for report in reports)]
    assert max(b - a for a, b in itertools.pairwise(done)) <= step


def test_an_error_of_the_report_ends_the_filling(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "WINDOW", 10)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    tensors = {name: zeros(tensor) for name, tensor in TENSORS.items()}
    with pytest.raises(KeyboardInterrupt):
        load_into(tensors, folder, progress=stop)
    assert bytes(tensors["wte"].data) == bytes(TENSORS["wte"].data[:10]).ljust(96, b"\0")


def test_names_that_do_not_match_are_an_error_or_are_told(folder: Path) -> None:
    tensors = {"wte": zeros(TENSORS["wte"]), "other": zeros(TENSORS["a"])}
    with pytest.raises(StateDictError) as caught:
        load_into(tensors, folder)
    unexpected = ["a", "empty", "h.0", "h.1", "h.2"]
    assert (caught.value.missing, caught.value.unexpected) == (["other"], unexpected)
    assert bytes(tensors["wte"].data) == bytes(96)
    assert load_into(tensors, folder, strict=False) == (["other"], unexpected)
    assert tensors["wte"] == TENSORS["wte"]


def test_shapes_are_compared_before_anything_is_read(folder: Path) -> None:
    tensors = {
        "h.0": zeros(TENSORS["h.0"]),
        "wte": Owned(Dtype.F32, (6, 4), zeros(TENSORS["wte"]).data),
    }
    with pytest.raises(StateDictError, match=r"'wte' \(\[4, 6\] in the file, \[6, 4\]\)"):
        load_into(tensors, folder / FIRST, strict=False)
    assert bytes(tensors["h.0"].data) == bytes(6)


@pytest.mark.parametrize("dtype", [Dtype.I32, Dtype.U32, Dtype.F8_E8M0])
def test_only_floating_point_dtypes_are_converted(folder: Path, dtype: Dtype) -> None:
    tensors = {"h.0": zeros(TENSORS["h.0"]), "wte": zeros(TENSORS["wte"], dtype=dtype)}
    with pytest.raises(InvalidInputError) as caught:
        load_into(tensors, folder / FIRST)
    found = f"{folder / FIRST}: tensor 'wte' is F32 in the file and {dtype} here, and only "
    assert str(caught.value).startswith(found)
    assert bytes(tensors["h.0"].data) == bytes(6)


def test_what_cannot_be_filled_is_refused_before_the_file_is_opened() -> None:
    tensors = {"w": Owned(Dtype.U8, (1,), memoryview(b"x"))}
    with pytest.raises(InvalidInputError, match="tensor 'w' is read-only"):
        load_into(tensors, "nowhere.safetensors")


def test_a_framework_that_fills_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safetensors_core.description.get_framework", lambda _tensor: RAW)
    with pytest.raises(InvalidInputError, match="the tensors of raw cannot be filled"):
        load_into({"w": TENSORS["wte"]}, "nowhere.safetensors")


def test_what_is_no_mapping_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected tensors by name in a mapping, got list"):
        load_into([TENSORS["wte"]], folder)  # type: ignore[arg-type]


def test_memory_that_overlaps_is_not_filled_twice(folder: Path) -> None:
    whole = zeros(TENSORS["wte"]).data
    assert isinstance(whole, memoryview)
    tensors = {
        "wte": Owned(Dtype.F32, (4, 6), whole),
        "h.0": Owned(Dtype.F16, (3,), whole[90:]),
        "h.2": zeros(TENSORS["h.2"]),
    }
    with pytest.raises(SharedMemoryError) as caught:
        load_into(tensors, folder, strict=False)
    assert caught.value.groups == [("h.0", "wte")]
    assert "has separate entries for tensors that share memory: {'h.0', 'wte'}" in str(caught.value)
    assert bytes(whole) == bytes(96)


def test_neighbours_in_memory_do_not_overlap(tmp_path: Path) -> None:
    both = memoryview(bytearray(12))
    tensors = {"a": Owned(Dtype.U8, (5,), both[:5]), "b": Owned(Dtype.U8, (7,), both[5:])}
    path = tmp_path / "model.safetensors"
    wanted = {n: RawTensor(t.dtype, t.shape, n.encode() * t.shape[0]) for n, t in tensors.items()}
    path.write_bytes(file_bytes(wanted))
    load_into(tensors, path)
    assert bytes(both) == b"aaaaabbbbbbb"


def test_a_tensor_under_two_names_is_not_missing_once_it_is_filled(folder: Path) -> None:
    tensor = zeros(TENSORS["wte"])
    assert load_into({"wte": tensor, "tied": tensor}, folder, strict=False)[0] == []
    assert tensor == TENSORS["wte"]


class Failing(FileSource):
    """A disk that breaks once the header has been read."""

    error: OSError

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: OSError(errno.EIO, "Input/output error", "a"),
            "[Errno 5] Input/output error (the tensors",
        ),
        (
            lambda: RemoteError("the server went away", "https://a"),
            "https://a: the server went away. The tensors",
        ),
        (lambda: OSError("no number"), "no number. The tensors"),
    ],
)
@pytest.mark.parametrize("kind", [Owned, Elsewhere])
def test_an_error_while_reading_says_that_tensors_may_be_filled_in_part(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], OSError],
    text: str,
    kind: type[Owned],
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({"wte": TENSORS["wte"]}))

    def opened(location: str | os.PathLike[str], **_options: Any) -> ByteSource:
        source = Failing(location)
        source.error = make()
        return source

    monkeypatch.setattr("safetensors_core.shards.shard_set.open_source", opened)
    with pytest.raises(type(make())) as caught:
        load_into({"wte": zeros(TENSORS["wte"], kind)}, path)
    assert str(caught.value).startswith(text)
    assert "may be filled in part: load into them again before they are used" in str(caught.value)


def test_an_error_before_reading_says_nothing_of_it(folder: Path) -> None:
    (folder / SECOND).write_bytes(b"")
    with pytest.raises(Exception, match="the file is empty") as caught:
        load_into({"h.1": zeros(TENSORS["h.1"])}, folder)
    assert "in part" not in str(caught.value)
