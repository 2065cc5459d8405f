"""Reading onto a device past the page cache: where it is done, and that it changes no byte."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from core.tests.late_accelerator import LateAccelerator
from safetensors_core import ClosedFileError, Dtype, TensorSpec, save_stream
from safetensors_core.sources import (
    ByteSource,
    FileSource,
    MappedSource,
    MemorySource,
    Segment,
    local,
)
from safetensors_core.transfer import Accelerator, Pinned, direct, plan, ring, upload
from safetensors_core.transfer.direct import DirectFile, open_direct

PAGE = 4096
LARGE = 300 * PAGE + 1717
MIXED = [5, 0, PAGE, 300, 1, 9 * PAGE, 256, 17, *[100] * 90, 140 * PAGE + 3, 7, 150 * PAGE]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slots and blocks of a few pages, and a system with 128 KiB to spare."""
    monkeypatch.setattr(ring, "SLOT", 4 * PAGE)
    monkeypatch.setattr(plan, "SLOT", 4 * PAGE)
    monkeypatch.setattr(Accelerator, "block_size", 64 * PAGE)
    monkeypatch.setattr(ring, "_BUDGET", 16 * PAGE)
    monkeypatch.setattr(ring, "_rings", {})
    monkeypatch.setenv("SAFETENSORS_THREADS", "3")
    memory = tmp_path / "meminfo"
    memory.write_text("MemFree: 1 kB\nMemAvailable:    128 kB\nBuffers: 0 kB\n", encoding="ascii")
    monkeypatch.setattr(direct, "_MEMORY", os.fspath(memory))
    monkeypatch.setattr(direct, "_LIMIT", os.fspath(tmp_path / "no limit"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Segment, bool]]:
    """What was asked of direct reads, and whether they did it."""
    asked: list[tuple[Segment, bool]] = []
    read = DirectFile.read

    def noted(self: DirectFile, view: memoryview, segment: Segment) -> bool:
        done = read(self, view, segment)
        asked.append((segment, done))
        return done

    monkeypatch.setattr(DirectFile, "read", noted)
    return asked


def nothing_cached(*_: int) -> bool:
    """In place of asking the system."""
    return False


def make_cold(path: Path) -> None:
    """Have the system forget what it holds of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder of a file system that reads past its cache; the test is skipped without one."""
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(64 * PAGE))
    try:
        make_cold(probe)
        source = FileSource(probe)
        cold = not direct._is_cached(source._opened().fd, 0, source.size)
        slot = LateAccelerator().pin(PAGE).view
        works = cold and DirectFile(source).read(slot, Segment(0, 0, PAGE))
    except (AttributeError, OSError):  # another system than Linux
        works = False
    if not works:
        pytest.skip("the temporary folder has no direct reads")
    return tmp_path


def write(path: Path, sizes: Sequence[int]) -> dict[str, bytes]:
    """A file of tensors of so many bytes, with their contents by name."""
    generator = random.Random(7)
    contents = {f"t{number:03}": generator.randbytes(size) for number, size in enumerate(sizes)}
    entries = [
        (name, TensorSpec(Dtype.U8, (len(data),)), lambda data=data: [data])
        for name, data in contents.items()
    ]
    save_stream(entries, path, fsync=False)
    return {name: data for name, data in contents.items() if data}


def load(source: ByteSource, chosen: Sequence[str] | None = None) -> dict[str, bytes]:
    """What comes to a device of a file whose header has been read."""
    infos = source.header.tensors
    wanted = infos if chosen is None else {name: infos[name] for name in chosen}
    blocks, places = upload(source, wanted, LateAccelerator())
    return {name: bytes(blocks[n][begin:end]) for name, (n, begin, end) in places.items()}


def cold(path: Path, opener: type[FileSource | MappedSource] = FileSource) -> ByteSource:
    """A file whose header has been read, and of which the system holds nothing else."""
    source = opener(path)
    source.read_header()
    make_cold(path)
    return source


@pytest.mark.parametrize("sizes", [[LARGE], MIXED, [1, LARGE], [255, LARGE, 3], [PAGE] * 300])
def test_every_byte_comes_to_its_place(
    disk: Path, reads: list[tuple[Segment, bool]], sizes: list[int]
) -> None:
    contents = write(disk / "a", sizes)
    assert load(cold(disk / "a")) == contents
    assert len(reads) > 4
    assert all(done for _, done in reads)


def test_a_selection_of_tensors_that_lie_apart_comes_right(
    disk: Path, reads: list[tuple[Segment, bool]]
) -> None:
    contents = write(disk / "a", MIXED * 2)
    chosen = sorted(contents)[::3]
    assert load(cold(disk / "a"), chosen) == {name: contents[name] for name in chosen}
    assert any(done for _, done in reads)


@pytest.mark.parametrize("extra", [0, 1, 511, 512, PAGE - 1])
def test_the_end_of_the_file_may_lie_anywhere_in_its_last_page(
    disk: Path, reads: list[tuple[Segment, bool]], extra: int
) -> None:
    write(disk / "a", [LARGE])  # whose header is as long
    contents = write(disk / "a", [100 * PAGE - cold(disk / "a").header.data_start + extra])
    source = cold(disk / "a")
    assert source.size % PAGE == extra
    assert load(source) == contents
    assert all(done for _, done in reads)


def test_a_mapped_file_is_read_past_the_cache_as_well(
    disk: Path, reads: list[tuple[Segment, bool]]
) -> None:
    contents = write(disk / "a", [4 * LARGE])
    assert load(cold(disk / "a", MappedSource)) == contents
    assert all(done for _, done in reads)
    assert reads


def test_nothing_of_the_file_is_left_in_the_cache(disk: Path) -> None:
    write(disk / "a", [LARGE])
    source = cold(disk / "a")
    load(source)
    assert isinstance(source, FileSource)
    assert not direct._is_cached(source._opened().fd, 0, source.size)


def test_a_file_that_is_cached_is_read_from_the_cache(
    disk: Path, reads: list[tuple[Segment, bool]]
) -> None:
    contents = write(disk / "a", [LARGE])
    source = cold(disk / "a")
    (disk / "a").read_bytes()
    assert load(source) == contents
    assert not reads


def test_a_quarter_in_the_cache_is_too_much_and_a_twentieth_is_little(disk: Path) -> None:
    write(disk / "a", [400 * PAGE])
    source = cold(disk / "a")
    assert isinstance(source, FileSource)
    fd = source._opened().fd
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no more than what is asked for
    os.pread(fd, 20 * PAGE, 0)
    assert not direct._is_cached(fd, 0, source.size)
    os.pread(fd, 100 * PAGE, 0)
    assert direct._is_cached(fd, 0, source.size)


@pytest.mark.parametrize("where", ["_MEMORY", "_LIMIT"])
def test_what_fits_into_half_of_the_memory_is_read_into_the_cache(
    disk: Path,
    reads: list[tuple[Segment, bool]],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    contents = write(disk / "a", [LARGE])
    for kib, expected in [(2 * LARGE // 1024 + 1, False), (2 * LARGE // 1024 - 1, True)]:
        for name, text in [
            ("_MEMORY", f"MemAvailable: {kib if where == '_MEMORY' else 1 << 40} kB\n"),
            ("_LIMIT", f"{kib * 1024}\n" if where == "_LIMIT" else "max\n"),
        ]:
            (disk / name).write_text(text, encoding="ascii")
            monkeypatch.setattr(direct, name, os.fspath(disk / name))
        assert load(cold(disk / "a")) == contents
        assert bool(reads) == expected


def test_where_the_system_tells_of_no_memory_nothing_is_read_past_the_cache(
    disk: Path, reads: list[tuple[Segment, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_MEMORY", os.fspath(disk / "nowhere"))
    contents = write(disk / "a", [LARGE])
    assert load(cold(disk / "a")) == contents
    assert not reads


def test_a_file_on_a_network_is_read_as_always(
    disk: Path, reads: list[tuple[Segment, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_filesystem", lambda _: "nfs4")
    contents = write(disk / "a", [LARGE])
    assert load(cold(disk / "a")) == contents
    assert not reads


def test_a_system_without_direct_reads_reads_as_always(
    disk: Path, reads: list[tuple[Segment, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_DIRECT")
    contents = write(disk / "a", [LARGE])
    assert load(cold(disk / "a")) == contents
    assert not reads


def test_what_is_no_file_is_never_read_past_the_cache(
    disk: Path, reads: list[tuple[Segment, bool]]
) -> None:
    contents = write(disk / "a", [LARGE])
    source = MemorySource((disk / "a").read_bytes())
    source.read_header()
    assert load(source) == contents
    assert not reads


@pytest.fixture
def memory_disk() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_file_system_in_memory_is_read_as_always(
    memory_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_is_cached", nothing_cached)
    contents = write(memory_disk / "a", MIXED)
    assert load(cold(memory_disk / "a")) == contents


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EFAULT, errno.EOPNOTSUPP])
def test_a_refused_direct_read_is_asked_for_no_second_time(
    disk: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    contents = write(disk / "a", [LARGE])
    source = cold(disk / "a")
    refused = failing_where_direct(monkeypatch, code)
    assert load(source) == contents
    assert 1 <= len(refused) <= 3  # threads that have begun


def failing_where_direct(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    """Let direct reads fail, and return where they were asked for."""
    import fcntl

    preadv, asked = os.preadv, list[int]()

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            asked.append(offset)
            raise OSError(code, os.strerror(code))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    return asked


def test_memory_at_an_odd_place_is_filled_in_the_usual_way(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = LateAccelerator.pin

    def odd(self: LateAccelerator, nbytes: int) -> Pinned:
        memory, view = pin(self, nbytes + PAGE)
        return Pinned(memory, view[1 : nbytes + 1])

    monkeypatch.setattr(LateAccelerator, "pin", odd)
    contents = write(disk / "a", [LARGE])
    assert load(cold(disk / "a")) == contents


def test_a_disk_that_fails_is_an_error_that_names_the_file(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(disk / "a", [LARGE])
    source = cold(disk / "a")
    failing_where_direct(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        load(source)
    assert caught.value.filename == os.fspath(disk / "a")


@pytest.mark.parametrize("left", [PAGE // 2, 40 * PAGE, 40 * PAGE + 5])
def test_a_file_that_became_shorter_is_an_error_that_says_so(
    disk: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    write(disk / "a", [LARGE])
    source = cold(disk / "a")
    monkeypatch.setattr(direct, "_is_cached", nothing_cached)
    os.truncate(disk / "a", left)
    with pytest.raises(OSError, match="the file ended") as caught:
        load(source)
    assert caught.value.filename == os.fspath(disk / "a")


@pytest.mark.parametrize("opener", [FileSource, MappedSource])
@pytest.mark.parametrize("by", ["nothing", "a file"])
def test_a_file_that_is_replaced_meanwhile_stays_what_it_was(
    disk: Path, opener: type[FileSource | MappedSource], by: str
) -> None:
    contents = write(disk / "a", [LARGE])
    source = cold(disk / "a", opener)
    (disk / "a").unlink()
    if by == "a file":
        (disk / "a").write_bytes(bytes(source.size))
    assert load(source) == contents


def test_a_replaced_file_is_still_read_past_the_cache(
    disk: Path, reads: list[tuple[Segment, bool]]
) -> None:
    contents = write(disk / "a", [LARGE])
    source = cold(disk / "a")
    (disk / "a").unlink()
    assert load(source) == contents
    assert reads


def test_a_closed_file_is_not_read(disk: Path) -> None:
    write(disk / "a", [LARGE])
    source = cold(disk / "a")
    source.close()
    with pytest.raises(ClosedFileError):
        load(source)


def test_no_descriptor_is_left(disk: Path) -> None:
    write(disk / "a", [LARGE])
    source = cold(disk / "a")
    assert isinstance(source, FileSource)
    opened = open_direct(source, [Segment(0, 0, source.size)])
    assert opened is not None
    before = set(os.listdir("/proc/self/fd"))
    del opened
    assert len(before) - len(set(os.listdir("/proc/self/fd"))) == 1
