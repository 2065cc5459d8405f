"""What a stream of tensors that are copied promises, whatever order they are written in."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tests.raw import RawTensor, file_bytes
from safetensors_core import Dtype, TensorInfo
from safetensors_core.checkpoint import copying
from safetensors_core.checkpoint.copying import CopyStream
from safetensors_core.sources import ByteSource

BLOCK = 64


class Recorded(ByteSource):
    """A file in memory that remembers what was read of it."""

    def __init__(self, data: bytes) -> None:
        self.location = "recorded"
        self.data = data
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []
        self.broken_from = self.size

    def read_into(self, offset: int, view: memoryview) -> None:
        if offset + len(view) > self.broken_from:
            raise OSError(5, "broken", self.location)
        self.reads.append((offset, len(view)))
        view[:] = self.data[offset : offset + len(view)]


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks so small that tensors of a few bytes fill them."""
    before = copying._BLOCK
    copying._BLOCK = BLOCK
    yield
    copying._BLOCK = before


def opened(*files: Mapping[str, bytes]) -> dict[str, tuple[Recorded, TensorInfo]]:
    """Files of bytes by name, as a stream takes them."""
    tensors: dict[str, tuple[Recorded, TensorInfo]] = {}
    for file in files:
        raw = {name: RawTensor(Dtype.U8, (len(data),), data) for name, data in file.items()}
        source = Recorded(file_bytes(raw))
        for name, info in source.read_header().tensors.items():
            tensors[name] = (source, info)
        source.reads.clear()
    return tensors


def numbered(sizes: list[int], begin: int = 0) -> dict[str, bytes]:
    return {
        f"{i:03d}": bytes((i + k) % 251 for k in range(size)) for i, size in enumerate(sizes, begin)
    }


sizes = st.lists(st.sampled_from([0, 1, 7, 63, 64, 65, 128, 200]), max_size=12)


@given(sizes, sizes, st.randoms(use_true_random=False), st.booleans())
def test_every_tensor_has_its_bytes_in_any_order(
    first: list[int], second: list[int], random: object, as_expected: bool
) -> None:
    files = numbered(first), numbered(second, len(first))
    expected = {**files[0], **files[1]}
    order = list(expected)
    random.shuffle(order)  # type: ignore[attr-defined]
    written = list(order)
    if not as_expected:
        random.shuffle(written)  # type: ignore[attr-defined]
    with CopyStream(opened(*files), order) as stream:
        chunks = {name: make for name, _, make in stream.entries()}
        assert list(chunks) == list(expected)
        assert {name: b"".join(chunks[name]()) for name in written} == expected


def test_every_byte_is_read_once_where_the_order_is_as_announced() -> None:
    tensors = opened(numbered([3, 200, 1, 1, 1, 64, 0, 90]), numbered([70, 2, 2], 8))
    with CopyStream(tensors, tensors) as stream:
        for _, _, chunks in stream.entries():
            list(chunks())
    for source in {id(source): source for source, _ in tensors.values()}.values():
        position = source.header.data_start
        for offset, count in sorted(source.reads):  # threads note their reads as they come
            assert offset == position
            position += count
        assert position == source.size


def test_small_tensors_that_lie_together_are_one_read() -> None:
    tensors = opened(numbered([1] * BLOCK))
    with CopyStream(tensors, tensors) as stream:
        for _, _, chunks in stream.entries():
            list(chunks())
    [(source, _), *_] = tensors.values()
    assert source.reads == [(source.header.data_start, BLOCK)]


def test_a_chunk_stays_as_it_is_while_later_ones_are_read() -> None:
    files = numbered([BLOCK] * 6)
    tensors = opened(files)
    with CopyStream(tensors, tensors) as stream:
        chunks = [chunk for _, _, make in stream.entries() for chunk in make()]
        assert b"".join(chunks) == b"".join(files.values())


def test_progress_is_told_up_to_the_whole() -> None:
    told: list[tuple[int, int]] = []
    tensors = opened(numbered([100, 0, 28]))
    with CopyStream(tensors, tensors, lambda done, total: told.append((done, total))) as stream:
        for _, _, chunks in stream.entries():
            list(chunks())
    assert [total for _, total in told] == [128] * len(told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (128, 128)


def test_a_failed_read_reaches_whoever_needs_those_bytes() -> None:
    tensors = opened(numbered([BLOCK, BLOCK, BLOCK]))
    [(source, _), *_] = tensors.values()
    source.broken_from = source.header.data_start + 2 * BLOCK
    with CopyStream(tensors, tensors) as stream:
        chunks = {name: make for name, _, make in stream.entries()}
        assert len(b"".join(chunks["001"]())) == BLOCK
        with pytest.raises(OSError, match="broken"):
            list(chunks["002"]())


def test_nothing_is_read_before_the_first_tensor_is_asked_for() -> None:
    tensors = opened(numbered([10]))
    with CopyStream(tensors, tensors) as stream:
        list(stream.entries())
    [(source, _)] = tensors.values()
    assert source.reads == []


def test_a_read_that_hangs_keeps_nobody_from_leaving() -> None:
    tensors = opened(numbered([BLOCK, BLOCK]))
    [(source, _), *_] = tensors.values()
    answered = threading.Event()
    read_into = source.read_into

    def read_first_only(offset: int, view: memoryview) -> None:
        if offset > source.header.data_start:
            answered.wait()
        read_into(offset, view)

    source.read_into = read_first_only  # type: ignore[method-assign]

    def leave_early() -> None:
        with CopyStream(tensors, tensors) as stream:
            for _, _, chunks in stream.entries():
                list(chunks())
                return

    thread = threading.Thread(target=leave_early, daemon=True)
    thread.start()
    thread.join(60)
    left = not thread.is_alive()
    answered.set()
    assert left


def test_a_block_is_waited_for_once_whatever_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    result = Future.result

    def noted(self: Future[Any], timeout: float | None = None) -> Any:
        waited.append(self)
        return result(self, timeout)

    monkeypatch.setattr(Future, "result", noted)
    tensors = opened(numbered([4] * (3 * BLOCK // 4)))
    with CopyStream(tensors, sorted(tensors)) as stream:
        copied = {name: b"".join(chunks()) for name, _, chunks in stream.entries()}
    assert len(copied) == 3 * BLOCK // 4
    assert len(waited) == 3
