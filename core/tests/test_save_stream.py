"""Streaming a file whose tensors are never held together in memory."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Dtype, InvalidInputError, TensorSpec, parse_header, save_stream

PROGRAM = Path(__file__).with_name("saving_program.py")
MIB = 1 << 20

Chunks = Callable[[], Iterable[Any]]


class ProducerError(Exception):
    """What the producer of a tensor's bytes may raise."""


def u8(name: str, nbytes: int, chunks: Chunks) -> tuple[str, TensorSpec, Chunks]:
    return (name, TensorSpec(Dtype.U8, (nbytes,)), chunks)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"the old file"
    assert os.listdir(target.parent) == [target.name]


def test_the_garbage_of_whoever_produces_the_bytes_is_collected(tmp_path: Path) -> None:
    found = []

    def produce() -> Iterator[bytes]:
        found.append(gc.isenabled())
        yield bytes(4)

    save_stream([u8("a", 4, produce)], tmp_path / "m")
    assert found == [True]


def test_entries_may_come_from_a_generator(tmp_path: Path) -> None:
    halves = {f"t{i}": bytes([i]) for i in range(3)}
    save_stream((u8(n, 2, partial(repeat, half, 2)) for n, half in halves.items()), tmp_path / "m")
    assert (tmp_path / "m").read_bytes()[-6:] == b"\0\0\1\1\2\2"


def test_callables_run_once_each_in_the_order_of_the_file(tmp_path: Path) -> None:
    called: list[str] = []

    def producer(name: str) -> Chunks:
        def produce() -> list[bytes]:
            called.append(name)
            return [bytes(8)]

        return produce

    specs = {"b": Dtype.F64, "a": Dtype.F64, "c": Dtype.BOOL, "d": Dtype.U64}
    save_stream(
        [(n, TensorSpec(d, (8 // (d.bits // 8),)), producer(n)) for n, d in specs.items()],
        tmp_path / "m",
    )
    assert called == ["d", "a", "b", "c"]
    assert list(parse_header((tmp_path / "m").read_bytes()).tensors) == called


def test_chunks_may_have_any_size_and_any_kind_of_buffer(tmp_path: Path) -> None:
    floats = memoryview(bytes(range(16))).cast("f")
    chunks = [b"", b"\xff", bytearray(b"\xfe\xfd"), floats, memoryview(floats).cast("B")[:1]]
    save_stream([u8("w", 20, lambda: iter(chunks))], tmp_path / "m")
    assert (tmp_path / "m").read_bytes()[-20:] == b"\xff\xfe\xfd" + bytes(range(16)) + b"\0"


@pytest.mark.parametrize("nbytes", [3, 3 * MIB])
def test_a_producer_may_use_one_buffer_again_and_again(tmp_path: Path, nbytes: int) -> None:
    def refill() -> Iterator[bytearray]:
        buffer = bytearray(nbytes)
        for i in range(4):
            buffer[:] = bytes([i]) * nbytes
            yield buffer

    save_stream([u8("w", 4 * nbytes, refill)], tmp_path / "m")
    expected = b"".join(bytes([i]) * nbytes for i in range(4))
    assert (tmp_path / "m").read_bytes()[-4 * nbytes :] == expected


def test_thousands_of_small_chunks_arrive_in_order(tmp_path: Path) -> None:
    numbers = [i.to_bytes(4, "little") for i in range(5000)]
    save_stream([u8("w", 20_000, lambda: iter(numbers))], tmp_path / "m")
    assert (tmp_path / "m").read_bytes()[-20_000:] == b"".join(numbers)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], r"'w': U8 of shape \[10\] has 10 bytes, but only 0 came"),
        ([bytes(9)], "has 10 bytes, but only 9 came"),
        ([bytes(9), bytes(2)], "has 10 bytes, but more came"),
        ([bytes(10), b"", bytes(1)], "has 10 bytes, but more came"),
    ],
)
def test_a_wrong_number_of_bytes_is_refused_and_changes_nothing(
    target: Path, chunks: list[bytes], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        save_stream([u8("v", 3, lambda: [b"abc"]), u8("w", 10, lambda: chunks)], target)
    assert_untouched(target)


@pytest.mark.parametrize("chunk", ["text", 7, None, [1, 2]])
def test_a_chunk_that_is_no_buffer_is_refused_by_the_name_of_its_tensor(
    target: Path, chunk: Any
) -> None:
    with pytest.raises(InvalidInputError, match=f"'w'.*{type(chunk).__name__}"):
        save_stream([u8("w", 4, lambda: [chunk])], target)
    assert_untouched(target)


def test_a_chunk_with_gaps_is_refused_by_the_name_of_its_tensor(target: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"'w'.*contiguous"):
        save_stream([u8("w", 2, lambda: [memoryview(b"abcd")[::2]])], target)
    assert_untouched(target)


@pytest.mark.parametrize("kind", [ProducerError, KeyboardInterrupt, MemoryError, SystemExit])
@pytest.mark.parametrize("written", [0, 100, 9 * MIB])
def test_an_exception_of_the_producer_changes_nothing_and_reaches_the_caller(
    target: Path, kind: type[BaseException], written: int
) -> None:
    def fail() -> Iterator[bytes]:
        yield bytes(written)
        raise kind("from the producer")

    with pytest.raises(kind, match="from the producer"):
        save_stream([u8("w", 10 * MIB, fail)], target)
    assert_untouched(target)


def test_an_error_of_the_file_that_the_producer_reads_keeps_naming_that_file(target: Path) -> None:
    def read_missing() -> Iterator[bytes]:
        yield (target.parent / "missing").read_bytes()

    with pytest.raises(FileNotFoundError) as caught:
        save_stream([u8("w", 10, read_missing)], target)
    assert caught.value.filename == str(target.parent / "missing")
    assert_untouched(target)


def test_an_error_of_the_producer_that_names_no_file_is_not_blamed_on_the_target(
    target: Path,
) -> None:
    def disconnect() -> Iterator[bytes]:
        yield bytes(5)
        raise ConnectionResetError(errno.ECONNRESET, "the server went away")

    with pytest.raises(ConnectionResetError) as caught:
        save_stream([u8("w", 10, disconnect)], target)
    assert caught.value.filename is None
    assert_untouched(target)


def test_an_exception_while_the_entries_are_made_changes_nothing(target: Path) -> None:
    def entries() -> Iterator[tuple[str, TensorSpec, Chunks]]:
        yield u8("w", 1, lambda: [b"a"])
        raise ProducerError

    with pytest.raises(ProducerError):
        save_stream(entries(), target)
    assert_untouched(target)


def test_ctrl_c_during_a_save_changes_nothing(target: Path) -> None:
    def interrupt() -> Iterator[bytes]:
        yield bytes(5 * MIB)
        os.kill(os.getpid(), signal.SIGINT)
        yield bytes(5 * MIB)

    # Tests that are started in the background of a shell are told to ignore the signal.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            save_stream([u8("w", 10 * MIB, interrupt)], target)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert_untouched(target)


def test_a_failed_save_can_be_repeated_in_the_same_process(target: Path) -> None:
    for _ in range(3):
        with pytest.raises(InvalidInputError):
            save_stream([u8("w", 2, lambda: [b"a"])], target)
    save_stream([u8("w", 2, lambda: [b"ab"])], target)
    assert target.read_bytes().endswith(b"ab")
    assert os.listdir(target.parent) == [target.name]


def test_a_failed_save_leaves_no_descriptor_open(target: Path) -> None:
    def open_descriptors() -> int:
        limit = 256
        return sum(1 for fd in range(limit) if _is_open(fd))

    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(InvalidInputError):
            save_stream([u8("w", 2, lambda: [b"a"])], target)
    assert open_descriptors() == before


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_memory_stays_at_one_chunk_however_large_the_file(tmp_path: Path) -> None:
    size = 300 * MIB
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "m", f"--size={size}", "--no-fsync"],
        check=True,
        capture_output=True,
    )
    report = json.loads(done.stdout)
    assert report["error"] is None
    assert (tmp_path / "m").stat().st_size > size
    assert report["grown"] < 32 * MIB


def test_a_large_chunk_may_be_refilled_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What one call cannot take is written in pieces, the last of them small.
    monkeypatch.setattr("safetensors_core.sources.file._PIECE", 5 << 20)
    buffer = bytearray(6 << 20)

    def chunks() -> Iterator[bytearray]:
        for value in (1, 2):
            buffer[:] = bytes([value]) * len(buffer)
            yield buffer

    path = tmp_path / "model.safetensors"
    save_stream([("w", TensorSpec(Dtype.U8, (12 << 20,)), chunks)], path)
    data = path.read_bytes()[-(12 << 20) :]
    assert data == b"\1" * (6 << 20) + b"\2" * (6 << 20)
