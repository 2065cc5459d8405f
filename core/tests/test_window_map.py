"""A mapped file is gone through a window at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawTensor, counting, file_bytes
from core.tests.sharded import RAW
from core.tests.test_load_dtype import Casting
from safetensors_core import ByteSource, ClosedFileError, Dtype, TensorInfo, safe_open
from safetensors_core.sources import MappedSource
from safetensors_core.sources.window_map import WindowMap

TENSORS = {f"w{i}": counting(Dtype.F32, 3000 + i) for i in range(4)} | {
    "empty": counting(Dtype.F32, 0)
}
MAPS = Path("/proc/self/maps")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TENSORS))
    return path


def mapped(path: Path) -> int:
    """How often a file is mapped."""
    return MAPS.read_text().count(str(path))


def test_every_window_holds_the_tensors_of_the_file(path: Path) -> None:
    for window in (1, 12_000, 25_000, "1MiB"):
        with safe_open(path, RAW, backend="mmap") as file:
            assert dict(file.iter_tensors(window=window)) == TENSORS


def test_a_write_reaches_neither_the_file_nor_other_tensors(path: Path) -> None:
    with safe_open(path, RAW, backend="mmap") as file:
        for _, tensor in file.iter_tensors(window=1):
            tensor.data[:] = b"\xff" * len(tensor.data)
        assert file.get_tensors() == TENSORS
    assert path.read_bytes() == file_bytes(TENSORS)


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists what is mapped")
def test_a_window_is_unmapped_with_its_last_tensor(path: Path) -> None:
    with safe_open(path, RAW, backend="mmap") as file:
        kept: list[RawTensor] = []
        for name, tensor in file.iter_tensors(window=1):
            if name == "w1":
                kept.append(tensor)
            del tensor
        # The whole file, and what is kept.
        assert mapped(path) == 2
        assert kept == [TENSORS["w1"]]
        kept.clear()
        assert mapped(path) == 1
    assert mapped(path) == 0


def test_the_next_window_is_mapped_while_the_caller_has_the_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[list[str]] = []
    second = threading.Event()

    def note(self: WindowMap, infos: Mapping[str, TensorInfo], alignment: int = 1) -> Any:
        fetched.append(list(infos))
        if len(fetched) == 2:
            second.set()
        return original(self, infos, alignment)

    original = WindowMap.fetch
    monkeypatch.setattr(WindowMap, "fetch", note)
    with safe_open(path, RAW) as file:
        tensors = file.iter_tensors(window=1)
        assert next(tensors)[0] == "w0"
        assert second.wait(30)
        tensors.close()  # type: ignore[attr-defined]  # it is a generator
    # Who leaves the loop has no more read.
    assert sorted(fetched) == [["w0"], ["w1"]]


@pytest.mark.parametrize("other", ["file", "pipe", None])
def test_the_file_that_was_opened_is_gone_through_whatever_its_path_leads_to(
    path: Path, other: str | None
) -> None:
    with safe_open(path, RAW, backend="mmap") as file:
        tensors = file.iter_tensors(window=1)
        loaded = dict([next(tensors)])
        nbytes = path.stat().st_size
        path.unlink()
        if other == "file":
            path.write_bytes(bytes(nbytes))
        elif other == "pipe":
            os.mkfifo(path)
        assert loaded | dict(tensors) == TENSORS


class Far(Casting):
    """Has devices with memory of their own, to which files are read."""

    def __init__(self) -> None:
        self.sources: set[type[ByteSource]] = set()

    def prefers_map(self, device: Any) -> bool:
        return bool(device == "cpu")

    def load(self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any) -> Any:
        self.sources.add(type(source))
        return super().load(source, infos, device)


@pytest.mark.parametrize("convert", [True, False])
def test_a_device_that_is_read_to_gets_the_mapped_file_which_it_can_open_anew(
    path: Path, convert: bool
) -> None:
    for device, expected in (("far", True), ("cpu", False)):
        far = Far()
        with safe_open(path, far, device, backend="mmap") as file:
            if convert:
                file.get_tensors(["w0"], dtype="F16")
            else:
                dict(file.iter_tensors(["w0"]))
        assert (far.sources == {MappedSource}) is expected


def test_a_file_that_is_closed_is_not_gone_through(path: Path) -> None:
    file = safe_open(path, RAW, backend="mmap")
    tensors = file.iter_tensors(["w0"], window=1)
    file.close()
    with pytest.raises(ClosedFileError):
        next(tensors)
