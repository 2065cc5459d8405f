"""Files of other file systems of fsspec: memory, archives, and one with an event loop."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from core.tests.raw import RawFramework, counting, file_bytes
from safetensors_core import ByteSource, Dtype, InvalidInputError, load_file, read_header
from safetensors_core.errors import FileChangedError, RemoteError
from safetensors_core.plugins import open_source
from safetensors_core.sources.remote import list_names, read_all

MIB = 1024 * 1024
TENSORS = {"w": counting(Dtype.F32, 64, 64), "b": counting(Dtype.I16, 9)}
FILE = file_bytes(TENSORS, None)


class LoopFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of `memory://`, as a file system with an event loop; it counts what it is asked.

    Attributes:
        calls: The names of the methods that were called.
        failures: Errors to raise, the next ones first, instead of answering `cat_file`.
    """

    protocol = "loop"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sync_fs = MemoryFileSystem()
        self.calls: list[str] = []
        self.failures: list[Exception] = []

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        self.calls.append("info")
        found: dict[str, Any] = self.sync_fs.info(path, **options)
        return found

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        self.calls.append("cat_file")
        if self.failures:
            raise self.failures.pop(0)
        found: bytes = self.sync_fs.cat_file(path, start=start, end=end)
        return found


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def loop(memory: MemoryFileSystem) -> LoopFileSystem:
    assert memory.store == {}
    fsspec.register_implementation("loop", LoopFileSystem, clobber=True)
    LoopFileSystem.clear_instance_cache()
    found = fsspec.filesystem("loop")
    assert isinstance(found, LoopFileSystem)
    return found


def read(source: ByteSource, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_a_file_in_memory_is_loaded(memory: MemoryFileSystem) -> None:
    memory.pipe_file("/folder/model.safetensors", FILE)
    assert load_file("memory://folder/model.safetensors", RawFramework()) == TENSORS


def test_a_member_of_an_archive_is_loaded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/model.safetensors", FILE)
    url = f"zip://folder/model.safetensors::file://{tmp_path}/a.zip"
    assert load_file(url, RawFramework()) == TENSORS


def test_a_missing_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(f"zip://model.safetensors::file://{tmp_path}/a.zip")


def test_a_file_url_is_a_local_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(FILE)
    assert open_source(f"file://{tmp_path}/model.safetensors", "mmap").size == len(FILE)
    assert load_file(f"file://{tmp_path}/model.safetensors", RawFramework()) == TENSORS


def test_many_threads_read_one_file(memory: MemoryFileSystem) -> None:
    data = os.urandom(2 * MIB)
    memory.pipe_file("/a", data)
    source = open_source("memory://a")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: read(source, i * 10_000, 5000), range(200)))
    assert found == [data[i * 10_000 : i * 10_000 + 5000] for i in range(200)]


@pytest.mark.usefixtures("memory")
def test_a_missing_file_is_not_found() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_header("memory://nowhere/model.safetensors")
    assert caught.value.filename == "memory://nowhere/model.safetensors"


def test_a_folder_is_no_file(memory: MemoryFileSystem) -> None:
    memory.pipe_file("/folder/a", b"")
    with pytest.raises(IsADirectoryError):
        open_source("memory://folder").read_header()


@pytest.mark.parametrize("size", [MIB, 100])
def test_a_file_that_is_replaced_while_it_is_open_is_an_error(
    memory: MemoryFileSystem, size: int
) -> None:
    memory.pipe_file("/a", os.urandom(MIB))
    source = open_source("memory://a")
    assert source.size == MIB
    memory.pipe_file("/a", os.urandom(size))
    with pytest.raises(FileChangedError):
        read(source, 500_000, 100)


def test_a_file_that_is_deleted_while_it_is_open_is_an_error(memory: MemoryFileSystem) -> None:
    memory.pipe_file("/a", os.urandom(MIB))
    source = open_source("memory://a")
    assert source.size == MIB
    memory.rm("/a")
    with pytest.raises(FileNotFoundError):
        read(source, 500_000, 100)


def test_a_file_system_with_a_loop_is_asked_for_the_size_before_and_after(
    loop: LoopFileSystem,
) -> None:
    data = os.urandom(20 * MIB)
    loop.sync_fs.pipe_file("/a", data)
    source = open_source("loop://a")
    assert loop.calls == []
    assert source.size == len(data)
    assert loop.calls == ["info", "cat_file", "info"]
    loop.calls.clear()
    assert read(source, 0, len(data)) == data
    assert loop.calls == ["cat_file"] * 3 + ["info"]


@pytest.mark.usefixtures("impatient")
def test_a_failed_read_is_tried_again(loop: LoopFileSystem) -> None:
    data = os.urandom(MIB)
    loop.sync_fs.pipe_file("/a", data)
    source = open_source("loop://a")
    assert source.size == MIB
    loop.failures = [ConnectionResetError("reset"), TimeoutError(), OSError("odd")]
    assert read(source, 500_000, 100) == data[500_000:500_100]
    loop.failures = [ConnectionResetError("reset")] * 9
    with pytest.raises(RemoteError, match="loop://a: ConnectionResetError: reset; tried 5 times"):
        read(source, 500_000, 100)
    assert len(loop.failures) == 4


def test_a_file_system_that_never_answers_is_an_error_and_the_process_ends() -> None:
    program = """
import threading
import fsspec
from fsspec.spec import AbstractFileSystem
from safetensors_core import RemoteError, read_header
from safetensors_core.sources import attempts

class Stuck(AbstractFileSystem):
    def info(self, path, **options):
        return {"name": path, "size": 100, "type": "file"}

    def cat_file(self, path, start=None, end=None, **options):
        threading.Event().wait()

fsspec.register_implementation("stuck", Stuck)
attempts._FIRST_WAIT = 0.001
try:
    read_header("stuck://model.safetensors")
except RemoteError as error:
    print(error)
"""
    environment = {**os.environ, "SAFETENSORS_REMOTE_TIMEOUT": "0.1"}
    python = [sys.executable, "-c", program]
    done = subprocess.run(
        python, check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    text = "the storage sent nothing for too long; tried 5 times"
    assert done.stdout == f"stuck://model.safetensors: {text}\n"


def test_errors_of_other_file_systems_show_nothing_secret(loop: LoopFileSystem) -> None:
    loop.sync_fs.pipe_file("/a", os.urandom(MIB))
    source = open_source("loop://a")
    assert source.size == MIB
    loop.failures = [KeyError("403, url=https://me:secret@example.org/a?sig=secret")]
    with pytest.raises(RemoteError, match=r"url=https://example\.org/a'") as caught:
        read(source, 500_000, 100)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (PermissionError("no"), PermissionError),
        (FileNotFoundError("no"), FileNotFoundError),
        (KeyError("no"), RemoteError),
    ],
)
def test_a_refusal_is_not_repeated(
    loop: LoopFileSystem, failure: Exception, kind: type[OSError]
) -> None:
    loop.sync_fs.pipe_file("/a", os.urandom(MIB))
    source = open_source("loop://a")
    assert source.size == MIB
    loop.failures = [failure] * 2
    with pytest.raises(kind, match="loop://a"):
        read(source, 500_000, 100)
    assert len(loop.failures) == 1


def test_a_change_during_the_reads_of_one_call_is_an_error(
    loop: LoopFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.sync_fs.pipe_file("/a", os.urandom(MIB))
    source = open_source("loop://a")
    assert source.size == MIB
    answer = LoopFileSystem._cat_file

    async def replaced(self: LoopFileSystem, path: str, **options: Any) -> bytes:
        found = await answer(self, path, **options)
        self.sync_fs.pipe_file("/a", os.urandom(MIB))
        return found

    monkeypatch.setattr(LoopFileSystem, "_cat_file", replaced)
    with pytest.raises(FileChangedError, match="changed while it was read"):
        read(source, 500_000, 100)


def test_small_files_are_read_whole_up_to_a_limit(memory: MemoryFileSystem) -> None:
    memory.pipe_file("/a.json", b"x" * 1000)
    assert read_all("memory://a.json", None, limit=1000) == b"x" * 1000
    with pytest.raises(InvalidInputError, match="has 1,000 bytes, and at most 999 are read"):
        read_all("memory://a.json", None, limit=999)


def test_the_files_of_a_folder_are_listed_without_those_below_it(memory: MemoryFileSystem) -> None:
    for name in ("b", "a", "deeper/c"):
        memory.pipe_file(f"/folder/{name}", b"")
    assert list_names("memory://folder", None) == ["a", "b"]
    assert list_names("memory://folder/", None) == ["a", "b"]
    assert list_names("memory://folder/a", None) == []
    with pytest.raises(FileNotFoundError):
        list_names("memory://nowhere", None)


# What cannot be opened.


def test_a_remote_file_cannot_be_mapped() -> None:
    for backend in ("mmap", "rdma"):
        with pytest.raises(InvalidInputError, match=f"backend '{backend}' does not fit"):
            open_source("memory://a", backend)


@pytest.mark.parametrize(
    ("url", "package"),
    [("gs://bucket/a", "gcsfs"), ("https://example.org/a", "safetensors-core\\[remote\\]")],
)
def test_what_is_missing_is_named(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gcsfs", "fsspec.implementations.http"):
        monkeypatch.setitem(sys.modules, module, None)
    for scheme in ("gs", "https"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    with pytest.raises(InvalidInputError, match=package):
        open_source(url)


def test_storage_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(InvalidInputError, match="storage options"):
        open_source(f"zip://a::file://{tmp_path}/a.zip", storage_options={"zip": {"mode": "odd"}})
    with pytest.raises(InvalidInputError, match="no_such_option"):
        open_source("https://127.0.0.1:9/a", storage_options={"no_such_option": 1}).read_header()
