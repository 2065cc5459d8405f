"""What is wanted next is read in the background."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, RawTensor
from core.tests.sharded import RAW, SECOND, TENSORS, checkpoint
from safetensors_core import TensorInfo, safe_open
from safetensors_core.sources import ByteSource, FileSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of three files with an index."""
    return checkpoint(tmp_path)


class Fetched(list[list[str]]):
    """Names of the tensors that were fetched together."""

    def __init__(self) -> None:
        self.second = threading.Event()

    def note(self, names: Iterable[str]) -> None:
        self.append(list(names))
        if len(self) == 2:
            self.second.set()


class Watched(FileSource):
    """A file that notes what is fetched from it."""

    fetched: Fetched

    def fetch(
        self, infos: Mapping[str, TensorInfo], alignment: int = 1
    ) -> tuple[memoryview, Mapping[str, TensorInfo]]:
        self.fetched.note(infos)
        return super().fetch(infos, alignment)


@pytest.fixture
def watched(folder: Path) -> tuple[safe_open, Fetched]:
    """A checkpoint, and what has been fetched from its files."""
    fetched = Fetched()

    def open_watched(path: str | os.PathLike[str]) -> ByteSource:
        source = Watched(path)
        source.fetched = fetched
        return source

    file = safe_open(folder, RAW)
    file._shards._open_file = open_watched
    return file, fetched


def test_the_next_tensors_are_read_while_the_caller_has_the_first(
    watched: tuple[safe_open, Fetched],
) -> None:
    file, fetched = watched
    tensors = file.iter_tensors(window=1)
    assert isinstance(tensors, Generator)
    assert next(tensors) == ("wte", TENSORS["wte"])
    assert fetched.second.wait(30)
    tensors.close()
    assert sorted(fetched) == [["h.0"], ["wte"]]


def test_tensors_come_one_by_one_in_windows_of_a_size(
    watched: tuple[safe_open, Fetched],
) -> None:
    file, fetched = watched
    assert dict(file.iter_tensors(window="50B")) == TENSORS
    assert sorted(fetched) == [["empty", "a"], ["h.0"], ["h.1", "h.2"], ["wte"]]
    assert dict(file.iter_tensors(["h.2", "wte"])) == {n: TENSORS[n] for n in ("wte", "h.2")}


def test_what_needs_no_bytes_reads_none(watched: tuple[safe_open, Fetched]) -> None:
    class Meta(RawFramework):
        def load(self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any) -> Any:
            return dict.fromkeys(infos)

    file, fetched = watched
    file._framework = Meta()
    assert file.get_tensors().keys() == TENSORS.keys()
    assert fetched == []


def test_an_error_of_a_reader_reaches_the_caller(folder: Path) -> None:
    with safe_open(folder, RAW, backend="pread") as file:
        file.locate("h.1")
        os.truncate(folder / SECOND, 100)
        with pytest.raises(OSError, match="the file ended"):
            file.get_tensors()
        with pytest.raises(OSError, match="the file ended"):
            list(file.iter_tensors(window=1))


def test_mapped_files_lend_their_memory_to_windows_too(folder: Path) -> None:
    with safe_open(folder, RAW, backend="mmap") as file:
        tensors: dict[str, RawTensor] = dict(file.iter_tensors(window=1))
    assert tensors == TENSORS
    assert isinstance(tensors["wte"].data, memoryview)
    assert not tensors["wte"].data.readonly


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_process_goes_on_with_what_its_parent_began(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    program = f"""
import os
from core.tests.raw import RawFramework
from safetensors_core import safe_open
file = safe_open({str(folder)!r}, RawFramework(), backend="pread")
tensors = file.iter_tensors(window=1)
names = [next(tensors)[0]]
child = os.fork()
names += [name for name, _ in tensors]
if child:
    assert os.waitpid(child, 0)[1] == 0
print(len(names), flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"{len(TENSORS)}\n" * 2
