"""Memory that is given out: its size, its address, and when it may be used a second time."""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from safetensors_core.sources import allocate, allocation

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_released() -> Iterator[None]:
    allocation._released.clear()
    yield
    allocation._released.clear()


def address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


@pytest.mark.parametrize("nbytes", [0, 1, 1000, 128 * 1024 - 1, 128 * 1024, MIB + 1, 5 * MIB])
@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_a_buffer_has_the_size_and_the_alignment(nbytes: int, alignment: int) -> None:
    buffer = allocate(nbytes, alignment)
    assert (buffer.nbytes, buffer.format, buffer.readonly) == (nbytes, "B", False)
    if nbytes:
        assert address(buffer) % alignment == 0
        buffer[-1] = 7
        assert buffer[-1] == 7


def test_memory_comes_back_only_after_its_last_user() -> None:
    first = allocate(MIB)
    place, part = address(first), first[5:9]
    part[:] = b"mine"
    del first
    second = allocate(MIB)
    assert address(second) != place
    second[:] = bytes(MIB)
    assert bytes(part) == b"mine"
    del part
    assert address(allocate(MIB)) == place


def test_memory_of_garbage_is_not_given_out_while_its_methods_run() -> None:
    found: list[memoryview] = []

    class Model:
        def __init__(self) -> None:
            self.weight, self.itself = allocate(MIB), self
            self.weight[:4] = b"mine"

        def __del__(self) -> None:
            other = allocate(MIB)
            other[:4] = b"else"
            assert bytes(self.weight[:4]) == b"mine"
            found.append(self.weight)

    Model()
    gc.collect()
    [weight] = found
    allocate(MIB)[:4] = b"more"
    assert bytes(weight[:4]) == b"mine"


def test_memory_is_used_again_for_its_own_size_alone() -> None:
    allocate(MIB)
    assert [len(block) for [block] in allocation._released] == [MIB]
    other = allocate(2 * MIB)
    assert len(allocation._released) == 1
    again = allocate(MIB)
    assert not allocation._released
    assert (len(other), len(again)) == (2 * MIB, MIB)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    sizes = [(number + 14) * MIB for number in (0, 2, 4, 6, 8)]
    buffers = [allocate(size) for size in sizes]
    buffers.reverse()
    while buffers:
        buffers.pop()
    assert [len(block) for [block] in allocation._released] == sizes[-3:]
    allocate(65 * MIB)
    assert [len(block) for [block] in allocation._released] == sizes[-3:]


def test_large_memory_is_whole_huge_pages_and_small_memory_is_no_more_than_asked_for() -> None:
    allocate(20 * MIB + 1)
    allocate(3 * MIB + 1)
    assert [len(block) for [block] in allocation._released] == [22 * MIB, 3 * MIB + mmap.PAGESIZE]


def test_threads_never_share_memory() -> None:
    wrong: list[int] = []

    def use(number: int) -> None:
        for _ in range(300):
            buffer = allocate(256 * 1024)
            buffer[0] = buffer[-1] = number
            other = allocate(256 * 1024)
            other[0] = other[-1] = number + 100
            if (buffer[0], buffer[-1]) != (number, number):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(allocation._released) <= 16


@pytest.mark.parametrize("nbytes", [1, 3 * MIB, 32 * MIB, 32 * MIB + 1, 48 * MIB + 77])
def test_zero_bytes_are_zeros_that_nobody_else_holds(nbytes: int) -> None:
    zeros = allocation.zero_bytes(nbytes)
    assert sys.getrefcount(zeros) <= 2  # this function and, before Python 3.14, the call
    assert len(zeros) == nbytes
    assert zeros.count(0) == nbytes


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists()
    or not Path("/proc/self/smaps").exists(),
    reason="the system has no huge pages, or does not say where",
)
def test_large_zero_bytes_are_in_huge_pages() -> None:
    zeros = allocation.zero_bytes(48 * MIB)
    middle = (ctypes.cast(ctypes.c_char_p(zeros), ctypes.c_void_p).value or 0) + 24 * MIB
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if "-" in name:
            begin, end = (int(bound, 16) for bound in name.split("-"))
            inside = begin <= middle < end
        elif inside and name == "VmFlags:":
            assert "hg" in values
            return
    pytest.fail("no map holds the bytes")


def test_zero_bytes_say_for_how_many_the_system_has_no_memory() -> None:
    with pytest.raises(MemoryError, match=r"^the system has no "):
        allocation.zero_bytes(sys.maxsize // 2)
