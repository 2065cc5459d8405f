"""Saving from a device: the next tensors are on their way while these are written, and no more."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest

from safetensors_core.transfer import download, neighbours


def test_buffers_come_in_order() -> None:
    groups = [["a", "b"], ["c"], [], ["d"]]
    found = list(download(groups, lambda group: [name.encode() for name in group]))
    assert found == [b"a", b"b", b"c", b"d"]


def test_the_next_group_is_copied_while_the_caller_has_this_one() -> None:
    copied = [threading.Event() for _ in range(3)]

    def copy(number: int) -> list[bytes]:
        copied[number].set()
        return [bytes([number])]

    buffers = download(range(3), copy)
    assert next(buffers) == b"\0"
    assert copied[1].wait(60)
    assert not copied[2].is_set()
    assert list(buffers) == [b"\1", b"\2"]


def test_groups_are_taken_as_they_are_needed_by_the_thread_that_writes() -> None:
    taken: list[tuple[int, int]] = []

    def groups() -> Iterator[int]:
        for number in range(9):
            taken.append((number, threading.get_ident()))
            yield number

    buffers = download(groups(), lambda number: [bytes([number])])
    next(buffers)
    assert taken == [(0, threading.get_ident()), (1, threading.get_ident())]


class Memory(bytearray):
    """Bytes that can be watched."""


def test_what_was_written_is_not_kept() -> None:
    made: list[weakref.ref[Memory]] = []

    def copy(number: int) -> list[Memory]:
        memory = Memory([number])
        made.append(weakref.ref(memory))
        return [memory]

    buffers = download(range(4), copy)
    for number in range(4):
        buffer = next(buffers)
        assert bytes(buffer) == bytes([number])
        del buffer
        assert made[number]() is None


def test_an_error_of_a_copy_is_raised_where_its_buffers_are_asked_for() -> None:
    def copy(number: int) -> list[bytes]:
        if number == 1:
            raise RuntimeError("an illegal memory access")
        return [bytes([number])]

    buffers = download(range(3), copy)
    assert next(buffers) == b"\0"
    with pytest.raises(RuntimeError, match="illegal"):
        next(buffers)


def test_whoever_stops_early_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    buffers = download(range(9), lambda number: [bytes([number])])
    next(buffers)
    del buffers
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert set(threading.enumerate()) <= before


def test_neighbours_are_of_one_device_and_fit_together() -> None:
    mib = 1 << 20
    tensors = [("a", 4 * mib), ("a", 12 * mib), ("a", 1), ("a", 30 * mib), ("b", 1), ("a", 1)]
    found = neighbours(iter(tensors), lambda tensor: tensor[1], lambda tensor: tensor[0])
    assert list(found) == [tensors[:2], tensors[2:3], tensors[3:4], tensors[4:5], tensors[5:]]
    assert list(neighbours([], len, len)) == []
