"""Where bytes come from: what is read, whose memory it is, and what a closed file still gives."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import AlignedFramework, RawFramework, RawTensor, counting, file_bytes, take
from safetensors_core import (
    ByteSource,
    ClosedFileError,
    Dtype,
    InvalidInputError,
    TensorInfo,
    load,
    load_file,
    safe_open,
)
from safetensors_core.sources import FileSource, MappedSource, MemorySource
from safetensors_core.sources.local import is_network_file, safetensors_open_source

RAW = RawFramework()
TENSORS = {
    "a": counting(Dtype.F64, 3, 5),
    "b": counting(Dtype.I16, 7),
    "empty": counting(Dtype.F32, 0, 4),
    "c": counting(Dtype.F4, 3, 2),
    "scalar": counting(Dtype.U8),
}
OPENERS: dict[str, Callable[[Path], ByteSource]] = {
    "mapped": MappedSource,
    "file": FileSource,
    "bytes": lambda path: MemorySource(path.read_bytes()),
    "bytearray": lambda path: MemorySource(bytearray(path.read_bytes())),
}
BACKENDS = ("mmap", "pread")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of `TENSORS`."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TENSORS, {"format": "raw"}))
    return path


@pytest.fixture(params=list(OPENERS.values()), ids=list(OPENERS))
def source(request: pytest.FixtureRequest, path: Path) -> ByteSource:
    """That file in each kind of source, its header read."""
    opened: ByteSource = request.param(path)
    opened.read_header()
    return opened


def address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def tensors_in(buffer: memoryview, infos: Any) -> dict[str, RawTensor]:
    return RAW.from_buffers(buffer, infos, "cpu")


def test_a_source_reads_the_header_and_any_bytes(source: ByteSource, path: Path) -> None:
    whole = path.read_bytes()
    assert source.size == len(whole)
    assert list(source.header.tensors) == list(TENSORS)
    view = bytearray(40)
    source.read_into(5, memoryview(view))
    assert view == whole[5:45]


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
@pytest.mark.parametrize("names", [list(TENSORS), ["c", "a"], ["scalar"], ["empty"], []])
def test_fetch_gives_the_tensors_asked_for(
    source: ByteSource, names: list[str], alignment: int
) -> None:
    infos = {name: source.header.tensors[name] for name in names}
    buffer, placed = source.fetch(infos, alignment)
    assert list(placed) == names
    assert tensors_in(buffer, placed) == {name: TENSORS[name] for name in names}
    assert not buffer.readonly


@pytest.mark.parametrize("alignment", [1, 16, 64, 4096])
@pytest.mark.parametrize("opener", ["file", "bytes"])
def test_owned_memory_is_aligned(opener: str, alignment: int, path: Path) -> None:
    source = OPENERS[opener](path)
    buffer, placed = source.fetch(source.read_header().tensors, alignment)
    for name, info in placed.items():
        step = max(alignment, info.dtype.bits // 8)
        assert (name, info.data_offsets[0] % step) == (name, 0)
    assert address(buffer) % alignment == 0


def test_tensors_that_lie_together_are_read_together(path: Path) -> None:
    read: list[list[tuple[int, int]]] = []

    class Watched(FileSource):
        def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
            read.append([(offset, len(view)) for offset, view in ranges])
            super().read_ranges(ranges)

    source = Watched(path)
    header = source.read_header()
    source.fetch(header.tensors)
    source.fetch({name: header.tensors[name] for name in ("scalar", "a")})
    start, end = header.data_start, header.data_nbytes
    assert read == [
        [(start, end)],
        [(start, 120), (start + end - 1, 1)],
    ]


def test_the_first_tensors_of_a_file_are_read_as_they_lie_where_all_are_aligned(
    tmp_path: Path,
) -> None:
    tensors = {name: counting(Dtype.F32, size) for name, size in [("a", 16), ("b", 32), ("c", 5)]}
    path = tmp_path / "aligned.safetensors"
    path.write_bytes(file_bytes(tensors))
    source = FileSource(path)
    infos = source.read_header().tensors
    for names in (["a", "b", "c"], ["a", "b"]):
        some = {name: infos[name] for name in names}
        buffer, placed = source.fetch(some, 64)
        assert placed == some
        assert len(buffer) == some[names[-1]].data_offsets[1]
        assert address(buffer) % 64 == 0
        assert tensors_in(buffer, placed) == {name: tensors[name] for name in names}
    buffer, placed = source.fetch({name: infos[name] for name in ("b", "c")}, 64)
    assert [info.data_offsets for info in placed.values()] == [(0, 128), (128, 148)]
    assert tensors_in(buffer, placed) == {name: tensors[name] for name in ("b", "c")}


@pytest.mark.parametrize("opener", ["mapped", "bytearray"])
def test_borrowed_memory_is_shared_between_loads(opener: str, path: Path) -> None:
    source = OPENERS[opener](path)
    infos = source.read_header().tensors
    first, second = (tensors_in(*source.fetch(infos)) for _ in range(2))
    assert isinstance(first["a"].data, memoryview)
    first["a"].data[0] ^= 0xFF
    assert first["a"].data == second["a"].data
    assert first["a"] != TENSORS["a"]


@pytest.mark.parametrize("opener", ["file", "bytes"])
def test_owned_memory_is_not_shared(opener: str, path: Path) -> None:
    source = OPENERS[opener](path)
    infos = source.read_header().tensors
    first, second = (tensors_in(*source.fetch(infos)) for _ in range(2))
    assert isinstance(first["a"].data, memoryview)
    first["a"].data[0] ^= 0xFF
    assert second["a"] == TENSORS["a"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_writing_to_a_tensor_does_not_reach_the_file(backend: Any, path: Path) -> None:
    before = path.read_bytes()
    tensors = load_file(path, RAW, backend=backend)
    tensors["a"].data[:] = bytes(len(tensors["a"].data))
    assert path.read_bytes() == before
    assert load_file(path, RAW, backend=backend) == TENSORS


def test_loading_from_a_writable_buffer_borrows_it_and_from_bytes_does_not(path: Path) -> None:
    data = bytearray(path.read_bytes())
    borrowed, owned = load(data, RAW), load(bytes(data), RAW)
    data[-1] ^= 0xFF
    assert borrowed["scalar"] != TENSORS["scalar"]
    assert owned["scalar"] == TENSORS["scalar"]


@pytest.mark.parametrize("data", [{}, "text", 7, memoryview(bytes(64))[::2]])
def test_what_is_no_contiguous_buffer_is_refused(data: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"got {type(data).__name__}"):
        load(data, RAW)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_outlive_the_file(backend: Any, path: Path) -> None:
    with safe_open(path, RAW, backend=backend) as file:
        tensors = file.get_tensors()
        part = file.get_slice("a")[1:]
    path.unlink()
    del file
    gc.collect()
    assert tensors == TENSORS
    assert part == take(TENSORS["a"], slice(1, None))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_file_refuses_to_read_and_names_itself(backend: Any, path: Path) -> None:
    file = safe_open(path, RAW, backend=backend)
    weight = file.get_slice("a")
    file.close()
    file.close()
    closed = re.escape(f"{path} is closed")
    with pytest.raises(ClosedFileError, match=closed):
        file.get_tensor("a")
    with pytest.raises(ClosedFileError, match=closed):
        file.get_tensors()
    with pytest.raises(ClosedFileError, match=closed):
        weight[0]
    assert file.keys() == sorted(TENSORS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_releases_the_descriptor(backend: Any, path: Path) -> None:
    def open_files() -> int:
        return sum(
            os.path.realpath(f"/proc/self/fd/{fd}") == str(path)
            for fd in os.listdir("/proc/self/fd")
        )

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the system does not list open files in /proc")
    with safe_open(path, RAW, backend=backend) as file:
        file.get_tensors()
        assert open_files() <= 1
    assert open_files() == 0


def test_a_file_truncated_while_open_fails_with_its_name(path: Path) -> None:
    file = safe_open(path, RAW, backend="pread")
    os.truncate(path, path.stat().st_size - 1)
    assert file.get_tensor("a") == TENSORS["a"]
    with pytest.raises(OSError, match=re.escape(str(path))) as caught:
        file.get_tensor("scalar")
    assert caught.value.filename == str(path)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_what_is_no_regular_file_is_refused_without_waiting(backend: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InvalidInputError, match=f"{special} is not a regular file"):
            safe_open(special, RAW, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_file_system_refuses_is_an_oserror_with_errno_and_name(
    backend: Any, tmp_path: Path
) -> None:
    missing, listener = tmp_path / "missing", tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listener))
        for place, number in [
            (missing, errno.ENOENT),
            (listener, errno.ENXIO),
            (tmp_path / ("x" * 300), errno.ENAMETOOLONG),
        ]:
            with pytest.raises(OSError) as caught:  # noqa: PT011  # checked by number below
                safe_open(place, RAW, backend=backend)
            assert (caught.value.errno, caught.value.filename) == (number, str(place))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_without_permission_is_named(backend: Any, path: Path) -> None:
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read every file
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError) as caught:
            safe_open(path, RAW, backend=backend)
    finally:
        os.seteuid(user)
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(path))


def test_an_unknown_backend_is_refused_with_the_known_ones(path: Path) -> None:
    with pytest.raises(InvalidInputError, match="choose 'auto', 'mmap', 'pread'"):
        safe_open(path, RAW, backend="rdma")  # type: ignore[arg-type]


def test_the_automatic_backend_follows_the_file_system(path: Path) -> None:
    expected = FileSource if is_network_file(path) else MappedSource
    assert type(safetensors_open_source(path, "auto")) is expected


def test_only_the_rows_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = counting(Dtype.F32, 64, 1024)
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({"before": counting(Dtype.U8, 4096), "w": tensor}))
    weight = safe_open(path, RAW, backend="pread").get_slice("w")
    read: list[int] = []
    preadv = os.preadv

    def watched(*arguments: Any) -> int:
        read.append(preadv(*arguments))
        return read[-1]

    monkeypatch.setattr(os, "preadv", watched)
    row = 4096
    for index, rows in [(3, 1), (slice(60, 70), 4), ([5, 5, -1], 2), ((7, slice(8)), 32 / row)]:
        read.clear()
        assert weight[index] == take(tensor, index)
        assert sum(read) == rows * row


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv

    def slow(fd: int, views: list[memoryview], offset: int) -> int:
        return preadv(fd, [views[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", slow)
    assert load_file(path, AlignedFramework(), backend="pread") == TENSORS


LARGE = {f"t{i}": RawTensor(Dtype.U8, (size,), random.Random(i).randbytes(size)) for i, size in
         enumerate([9 << 20, 1, 8 << 20, 3 << 20, 5, 17])}  # fmt: skip


@pytest.fixture(scope="module")
def large_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file large enough to be read by several threads."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    path.write_bytes(file_bytes(LARGE))
    return path


@pytest.mark.parametrize("framework", [RAW, AlignedFramework()], ids=["packed", "aligned"])
def test_a_parallel_read_gives_the_bytes_of_the_file(large_path: Path, framework: Any) -> None:
    assert load_file(large_path, framework, backend="pread") == LARGE


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_threads_may_use_one_open_file(backend: Any, large_path: Path) -> None:
    with safe_open(large_path, RAW, backend=backend) as file:

        def work(seed: int) -> bool:
            random_ = random.Random(seed)
            name = random_.choice(list(LARGE))
            begin = random_.randrange(len(LARGE[name].data))
            part = file.get_slice(name)[begin : begin + 4096]
            return bool(
                file.get_tensor(name) == LARGE[name]
                and part.data == LARGE[name].data[begin : begin + 4096]
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(32)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_during_reads_never_gives_wrong_bytes(backend: Any, large_path: Path) -> None:
    def read_or_closed(file: safe_open, name: str) -> str:
        try:
            return "right" if file.get_tensor(name) == LARGE[name] else "wrong"
        except ClosedFileError:
            return "closed"

    outcomes: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            file = safe_open(large_path, RAW, backend=backend)
            running = [pool.submit(read_or_closed, file, name) for name in ("t0", "t2") * 4]
            file.close()
            # The number of a closed descriptor is given to the next file that is opened.
            with open(os.devnull, "rb"), open(__file__, "rb"):
                outcomes += [future.result() for future in running]
            assert read_or_closed(file, "t1") == "closed"
    assert set(outcomes) <= {"right", "closed"}


def test_a_source_of_ones_own_needs_only_to_read(path: Path) -> None:
    class Stored(ByteSource):
        def __init__(self, data: bytes) -> None:
            self.location, self.size, self.data = "store:model", len(data), data

        def read_into(self, offset: int, view: memoryview) -> None:
            view[:] = self.data[offset : offset + len(view)]

    source = Stored(path.read_bytes())
    infos = source.read_header().tensors
    assert tensors_in(*source.fetch(infos, 32)) == TENSORS
    buffer, info, index = source.fetch_slice(infos["a"], (slice(1, 3), -1))
    assert info == TensorInfo(Dtype.F64, (2, 5), (0, 80))
    assert RAW.index(buffer, info, index, "cpu") == take(TENSORS["a"], (slice(1, 3), -1))
