"""Processes that are killed while they save, and processes that save at the same time."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safetensors_core import Dtype, TensorSpec, replacement, save_stream

PROGRAM = Path(__file__).with_name("saving_program.py")
PART = re.compile(r"\.model\.safetensors\.[0-9a-f]{16}\.safetensors-part")
SIZE = 10 << 20

Start = Callable[..., "subprocess.Popen[bytes]"]


def write(path: Path, content: bytes = b"new") -> None:
    save_stream([("w", TensorSpec(Dtype.U8, (len(content),)), lambda: [content])], path)


def parts(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith("part")]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    return path


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that saves a file and waits halfway; those left over are ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(target: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, PROGRAM, target, f"--size={SIZE}", "--wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"halfway\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_a_killed_save_leaves_the_old_file_and_one_leftover_with_a_telling_name(
    target: Path, start: Start
) -> None:
    kill(start(target))
    assert target.read_bytes() == b"the old file"
    (leftover,) = parts(target.parent)
    assert PART.fullmatch(leftover)
    assert sorted(os.listdir(target.parent)) == sorted([leftover, target.name])


@pytest.mark.parametrize("name", ["model.safetensors", "another.safetensors"])
def test_the_next_save_into_the_folder_removes_the_leftovers(
    target: Path, start: Start, name: str
) -> None:
    for process in [start(target), start(target)]:
        kill(process)
    assert len(parts(target.parent)) == 2
    write(target.with_name(name))
    assert sorted(os.listdir(target.parent)) == sorted({target.name, name})


def test_a_file_that_is_being_written_is_never_taken_for_a_leftover(
    target: Path, start: Start
) -> None:
    writer = start(target)
    (part,) = parts(target.parent)
    write(target.with_name("another.safetensors"))
    write(target, b"in between")
    assert parts(target.parent) == [part]
    writer.communicate(b"\n")
    assert writer.returncode == 0
    assert target.read_bytes().endswith(b"\1" * SIZE)
    assert not parts(target.parent)


def test_another_thread_s_file_is_never_taken_for_a_leftover(target: Path) -> None:
    halfway, go_on = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        halfway.set()
        go_on.wait(60)
        yield b"second"

    entry = ("w", TensorSpec(Dtype.U8, (11,)), chunks)
    thread = threading.Thread(target=save_stream, args=([entry], target))
    thread.start()
    assert halfway.wait(60)
    write(target.with_name("another.safetensors"))
    go_on.set()
    thread.join()
    assert target.read_bytes().endswith(b"firstsecond")
    assert not parts(target.parent)


def test_a_new_file_that_another_save_is_about_to_remove_is_made_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    rivals: list[int] = []

    def lock_second(fd: int, operation: int) -> None:
        if not rivals:
            # What another save does when it finds the file before its writer has locked it.
            (part,) = parts(target.parent)
            rivals.append(os.open(target.with_name(part), os.O_RDWR))
            lock(rivals[0], operation)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock_second)
    with replacement.ReplacementFile(target, fsync=False) as file:
        os.write(file.part.fd, b"new")
        assert not os.path.sameopenfile(file.part.fd, rivals[0])
    os.close(rivals[0])
    assert target.read_bytes() == b"new"
    assert not parts(target.parent)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors-part",
        ".model.safetensors-part",
        ".m.0123456789ABCDEF.safetensors-part",
        ".m.0123456789abcdef.safetensors-part.bak",
        "m.0123456789abcdef.safetensors-part",
    ],
)
def test_files_of_other_names_are_left_alone(target: Path, name: str) -> None:
    target.with_name(name).write_bytes(b"somebody's")
    write(target)
    assert target.with_name(name).read_bytes() == b"somebody's"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_files_are_removed_as_leftovers(target: Path, kind: str) -> None:
    other = target.with_name(".m.0123456789abcdef.safetensors-part")
    elsewhere = target.with_name("elsewhere")
    elsewhere.write_bytes(b"somebody's")
    if kind == "link":
        other.symlink_to(elsewhere)
    elif kind == "folder":
        other.mkdir()
    else:
        os.mkfifo(other)
    write(target)
    assert os.path.lexists(other)
    assert elsewhere.read_bytes() == b"somebody's"


@pytest.mark.parametrize(("age", "stays"), [(3600, True), (2 * 24 * 3600, False)])
def test_on_a_network_only_leftovers_of_yesterday_are_removed(
    target: Path, monkeypatch: pytest.MonkeyPatch, age: int, stays: bool
) -> None:
    leftover = target.with_name(".m.0123456789abcdef.safetensors-part")
    leftover.write_bytes(b"of another machine, perhaps")
    changed = leftover.stat().st_mtime - age
    os.utime(leftover, (changed, changed))
    monkeypatch.setattr("safetensors_core.leftovers.is_network_file", lambda _: True)
    write(target)
    assert leftover.exists() is stays


def test_processes_that_save_one_file_at_once_always_leave_a_whole_version(target: Path) -> None:
    size, fills = 1 << 20, (1, 2, 3, 4)
    write(target, bytes(size))
    expected = {target.read_bytes()[:-size] + bytes([fill]) * size for fill in (0, *fills)}
    command = [sys.executable, str(PROGRAM), str(target), f"--size={size}", "--chunk=65536"]
    writers = [
        subprocess.Popen(
            [*command, f"--fill={fill}", "--saves=25", "--no-fsync"], stdout=subprocess.PIPE
        )
        for fill in fills
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(target.read_bytes())
    assert [b'"error": null' in writer.communicate()[0] for writer in writers] == [True] * 4
    assert seen <= expected
    assert target.read_bytes() in expected
    assert os.listdir(target.parent) == [target.name]
