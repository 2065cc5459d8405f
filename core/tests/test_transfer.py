"""Reading onto a device: every byte at its place, in order, and no memory lost on any way out."""

from __future__ import annotations

import gc
import itertools
import os
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from core.tests.late_accelerator import LateAccelerator
from safetensors_core import (
    ClosedFileError,
    Dtype,
    InvalidInputError,
    TensorInfo,
    TensorSpec,
    save_stream,
)
from safetensors_core.sources import ByteSource, FileSource, MappedSource, MemorySource
from safetensors_core.transfer import Accelerator, Pinned, Place, plan, ring, upload
from safetensors_core.transfer.plan import plan_upload
from safetensors_core.transfer.ring import Ring, ring_for

PAGE = 4096


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots and blocks of a few pages, so that small files need many."""
    monkeypatch.setattr(ring, "SLOT", 4 * PAGE)
    monkeypatch.setattr(plan, "SLOT", 4 * PAGE)
    monkeypatch.setattr(Accelerator, "block_size", 16 * PAGE)
    monkeypatch.setattr(ring, "_BUDGET", 16 * PAGE)
    monkeypatch.setattr(ring, "_rings", {})
    monkeypatch.setenv("SAFETENSORS_THREADS", "3")


@pytest.fixture
def device() -> LateAccelerator:
    return LateAccelerator()


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


def opened(path: Path) -> tuple[FileSource, Mapping[str, TensorInfo]]:
    source = FileSource(path)
    return source, source.read_header().tensors


MIXED = [5, 0, PAGE, 300, 1, 9 * PAGE, 0, 256, 17, *[100] * 90, 40 * PAGE + 3, 7]


def contents_of(uploaded: tuple[list[bytearray], dict[str, Place]]) -> dict[str, bytes]:
    """What lies where tensors are said to lie."""
    blocks, places = uploaded
    return {name: bytes(blocks[n][begin:end]) for name, (n, begin, end) in places.items()}


def free_slots(device: LateAccelerator) -> int:
    """How many slots can be taken now."""
    gc.collect()
    taken = []
    while (slot := ring_for(device).take(device, wait=False)) is not None:
        taken.append(slot)
    return len(taken)


def end_of_reads() -> None:
    """Wait for what was being read when a load failed: it is left alone."""
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(60)


@pytest.mark.parametrize(
    "sizes", [MIXED, [], [0], [1], [PAGE * 4], [PAGE * 16 + 1], [256] * 500, [PAGE * 3] * 30]
)
def test_every_byte_comes_to_its_place(
    tmp_path: Path, device: LateAccelerator, sizes: list[int]
) -> None:
    contents = write(tmp_path / "a", sizes)
    source, infos = opened(tmp_path / "a")
    placed = upload(source, infos, device)
    assert contents_of(placed) == contents


def test_a_selection_of_tensors_comes_without_the_others(
    tmp_path: Path, device: LateAccelerator
) -> None:
    contents = write(tmp_path / "a", MIXED)
    source, infos = opened(tmp_path / "a")
    chosen = sorted(contents)[::3]
    placed = upload(source, {name: infos[name] for name in reversed(chosen)}, device)
    assert contents_of(placed) == {name: contents[name] for name in chosen}
    padding = len(chosen) * plan.ALIGNMENT
    assert sum(map(len, device.blocks)) <= sum(len(contents[n]) for n in chosen) + padding


def test_copies_are_asked_for_in_the_order_of_the_file(
    tmp_path: Path, device: LateAccelerator
) -> None:
    write(tmp_path / "a", MIXED)
    upload(*opened(tmp_path / "a"), device)
    assert len(device.order) > 4
    assert device.order == sorted(device.order)


def test_tensors_begin_where_kernels_want_them(tmp_path: Path) -> None:
    write(tmp_path / "a", MIXED)
    _, infos = opened(tmp_path / "a")
    made = plan_upload(infos, 1000, 16 * PAGE)
    assert {place.begin % 256 for place in made.places.values()} == {0}
    assert max(made.blocks) > 16 * PAGE  # one tensor that is larger
    assert sorted(made.blocks)[-2] <= 16 * PAGE


def test_where_blocks_are_not_shared_each_tensor_has_its_own(tmp_path: Path) -> None:
    write(tmp_path / "a", MIXED)
    _, infos = opened(tmp_path / "a")
    made = plan_upload(infos, 1000, 0)
    assert [place.begin for place in made.places.values()] == [0] * len(made.places)
    sizes = [made.blocks[place.block] for place in made.places.values()]
    assert sizes == [infos[name].nbytes for name in made.places]


def test_what_lies_together_in_the_file_is_one_read_and_few_copies() -> None:
    infos = {str(i): TensorInfo(Dtype.U8, (256,), (256 * i, 256 * i + 256)) for i in range(64)}
    made = plan_upload(infos, 5000, 16 * PAGE)
    assert [len(segments) for segments in made.segments] == [1]
    assert sum(len(chunk.reads) for chunk in made.chunks()) == 2


def test_reads_lie_in_slots_as_in_the_pages_of_the_file() -> None:
    infos = {"a": TensorInfo(Dtype.U8, (50 * PAGE,), (0, 50 * PAGE))}
    chunks = list(plan_upload(infos, 1000, 16 * PAGE).chunks())
    reads = [read for chunk in chunks for read in chunk.reads]
    assert {(read.offset - read.begin) % PAGE for read in reads} == {0}
    assert {read.offset % PAGE for read in reads[1:]} == {0}
    assert max(chunk.end for chunk in chunks) <= 4 * PAGE


def test_no_more_is_pinned_than_the_budget(tmp_path: Path, device: LateAccelerator) -> None:
    write(tmp_path / "a", MIXED * 4)
    upload(*opened(tmp_path / "a"), device)
    assert 0 < device.pins <= 4


def test_memory_is_pinned_once_for_all_loads(tmp_path: Path, device: LateAccelerator) -> None:
    contents = write(tmp_path / "a", MIXED)
    upload(*opened(tmp_path / "a"), device)
    other = LateAccelerator()
    pins = device.pins
    for _ in range(5):
        placed = upload(*opened(tmp_path / "a"), other)
        assert contents_of(placed) == contents
    assert pins + other.pins <= 4


def test_a_small_file_pins_as_little_as_it_needs(tmp_path: Path, device: LateAccelerator) -> None:
    write(tmp_path / "a", [10])
    for _ in range(5):
        upload(*opened(tmp_path / "a"), device)
    assert device.pins == 1


def test_released_memory_is_pinned_again_when_it_is_needed(
    tmp_path: Path, device: LateAccelerator
) -> None:
    contents = write(tmp_path / "a", [10])
    upload(*opened(tmp_path / "a"), device)
    ring.release_pinned_memory()
    placed = upload(*opened(tmp_path / "a"), device)
    assert device.pins == 2
    assert contents_of(placed) == contents


def test_a_slot_in_use_survives_a_release(device: LateAccelerator) -> None:
    slot = ring_for(device).take(device, wait=True)
    assert slot is not None
    ring.release_pinned_memory()
    slot.pinned.view[:3] = b"abc"
    assert bytes(slot.pinned.view[:3]) == b"abc"
    del slot
    assert free_slots(device) == 4


class Faulty(ByteSource):
    """A file that fails at the so-manyth read."""

    def __init__(self, inner: FileSource, fails_at: int, error: BaseException) -> None:
        self.location, self.size, self.header = inner.location, inner.size, inner.header
        self._inner = inner
        self._reads = itertools.count()
        self._fails_at = fails_at
        self._error = error

    def read_into(self, offset: int, view: memoryview) -> None:
        if next(self._reads) == self._fails_at:
            raise self._error
        self._inner.read_into(offset, view)


@pytest.mark.parametrize("fails_at", [0, 3, 11])
@pytest.mark.parametrize("error", [OSError(5, "broken"), KeyboardInterrupt()])
def test_an_error_of_a_reader_is_raised_and_no_slot_is_lost(
    tmp_path: Path, device: LateAccelerator, fails_at: int, error: BaseException
) -> None:
    write(tmp_path / "a", [64 * PAGE])
    source, infos = opened(tmp_path / "a")
    with pytest.raises(type(error)) as caught:
        upload(Faulty(source, fails_at, error), infos, device)
    assert caught.value is error
    assert device.joined == 1  # blocks may be used again: nothing is copied to them any more
    # Reads that were under way end by themselves; each gives back its slot then.
    ring_of_all = ring_for(device)
    taken = [ring_of_all.take(device, wait=True) for _ in range(4)]
    assert None not in taken


def test_reads_that_have_not_begun_are_given_up(tmp_path: Path, device: LateAccelerator) -> None:
    write(tmp_path / "a", [64 * PAGE])
    source, infos = opened(tmp_path / "a")
    faulty = Faulty(source, 0, OSError(5, "broken"))
    with pytest.raises(OSError, match="broken"):
        upload(faulty, infos, device)
    assert next(faulty._reads) <= 1 + 4


class Endless(ByteSource):
    """A file that does not answer until it is told to."""

    def __init__(self, inner: FileSource) -> None:
        self.location, self.size, self.header = inner.location, inner.size, inner.header
        self.asked, self.answers = threading.Event(), threading.Event()

    def read_into(self, offset: int, view: memoryview) -> None:
        self.asked.set()
        assert self.answers.wait(60)


def test_a_read_that_hangs_keeps_its_slot_and_nobody(
    tmp_path: Path, device: LateAccelerator
) -> None:
    write(tmp_path / "a", [64 * PAGE])
    source, infos = opened(tmp_path / "a")
    endless = Endless(source)

    class Interrupting(LateAccelerator):
        def pin(self, nbytes: int) -> Pinned:
            if self.pins == 1:
                assert endless.asked.wait(60)
                raise KeyboardInterrupt
            return super().pin(nbytes)

    with pytest.raises(KeyboardInterrupt):
        upload(endless, infos, Interrupting())
    assert free_slots(device) == 3
    endless.answers.set()
    taken = [ring_for(device).take(device, wait=True) for _ in range(4)]
    assert None not in taken


def test_an_error_of_the_device_is_raised_and_no_slot_is_lost(tmp_path: Path) -> None:
    device = LateAccelerator(refuses=RuntimeError("an illegal memory access"))
    write(tmp_path / "a", [64 * PAGE])
    with pytest.raises(RuntimeError, match="illegal"):
        upload(*opened(tmp_path / "a"), device)
    end_of_reads()
    assert free_slots(LateAccelerator()) == 4


def test_without_memory_to_pin_what_is_pinned_is_used(tmp_path: Path) -> None:
    device = LateAccelerator()
    device.most_pins = 0
    write(tmp_path / "a", [64 * PAGE])
    with pytest.raises(MemoryError):
        upload(*opened(tmp_path / "a"), device)
    device.most_pins = 1 << 30
    end_of_reads()
    assert free_slots(device) == 4


def test_many_threads_share_one_slot_without_waiting_for_each_other_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_BUDGET", 4 * PAGE)
    contents = write(tmp_path / "a", MIXED)
    right: list[bool] = []

    def load() -> None:
        placed = upload(*opened(tmp_path / "a"), LateAccelerator())
        right.append(contents_of(placed) == contents)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert right == [True] * 6


def test_devices_of_two_kinds_have_memory_of_their_own() -> None:
    assert ring_for(LateAccelerator("a")) is not ring_for(LateAccelerator("b"))
    assert ring_for(LateAccelerator("a")) is ring_for(LateAccelerator("a"))


def test_the_environment_sets_how_much_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETENSORS_PINNED_MEMORY", "160KiB")
    assert ring_for(LateAccelerator()).slots == 10


@pytest.mark.parametrize("text", ["", "much", "-1", "4KiB"])
def test_a_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SAFETENSORS_PINNED_MEMORY", text)
    with pytest.raises(InvalidInputError, match="SAFETENSORS_PINNED_MEMORY"):
        ring_for(LateAccelerator())


def test_a_ring_has_at_least_one_slot() -> None:
    with pytest.raises(InvalidInputError, match="too few"):
        Ring(PAGE)


def test_what_is_in_memory_comes_to_a_device_as_well(
    tmp_path: Path, device: LateAccelerator
) -> None:
    contents = write(tmp_path / "a", MIXED)
    source = MemorySource((tmp_path / "a").read_bytes())
    placed = upload(source, source.read_header().tensors, device)
    assert contents_of(placed) == contents


def test_the_threads_of_a_load_end_with_it(tmp_path: Path, device: LateAccelerator) -> None:
    write(tmp_path / "a", MIXED)
    before = set(threading.enumerate())
    upload(*opened(tmp_path / "a"), device)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert set(threading.enumerate()) <= before


def test_a_mapped_file_is_read_and_not_copied_out_of_its_map(
    tmp_path: Path, device: LateAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = write(tmp_path / "a", MIXED)
    mapped = MappedSource(tmp_path / "a")
    infos = mapped.read_header().tensors
    read_into, copied = MappedSource.read_into, []

    def noted(self: MappedSource, offset: int, view: memoryview) -> None:
        copied.append(len(view))
        read_into(self, offset, view)

    monkeypatch.setattr(MappedSource, "read_into", noted)
    assert contents_of(upload(mapped, infos, device)) == contents
    assert sum(copied) == 0


@pytest.mark.parametrize("replaced_by", ["nothing", "a file", "a folder", "a pipe"])
def test_a_mapped_file_stays_what_it_was_when_its_path_leads_elsewhere(
    tmp_path: Path, device: LateAccelerator, replaced_by: str
) -> None:
    contents = write(tmp_path / "a", MIXED)
    mapped = MappedSource(tmp_path / "a")
    infos = mapped.read_header().tensors
    (tmp_path / "a").rename(tmp_path / "b")
    if replaced_by == "a file":
        (tmp_path / "a").write_bytes(bytes((tmp_path / "b").stat().st_size))
    elif replaced_by == "a folder":
        (tmp_path / "a").mkdir()
    elif replaced_by == "a pipe":
        os.mkfifo(tmp_path / "a")
    assert contents_of(upload(mapped, infos, device)) == contents


def test_a_mapped_file_that_is_closed_is_not_read(tmp_path: Path, device: LateAccelerator) -> None:
    write(tmp_path / "a", MIXED)
    mapped = MappedSource(tmp_path / "a")
    infos = mapped.read_header().tensors
    mapped.close()
    with pytest.raises(ClosedFileError):
        upload(mapped, infos, device)
