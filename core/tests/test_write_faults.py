"""What the system may refuse during a save: each call fails in turn, by the kernel's own hand."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from core.tests.disks import why_no_disk_can_be_mounted
from safetensors_core import Dtype, TensorSpec, save_stream

PROGRAM = Path(__file__).with_name("saving_program.py")
TOKEN = "0123456789abcdef"
SIZE = 12 << 20  # three times what one call writes

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    path.chmod(0o640)  # so that the new one's mode must be set
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"the old file"
    assert os.listdir(target.parent) == [target.name]


def assert_replaced(target: Path) -> None:
    assert target.read_bytes().endswith(b"\1" * SIZE)
    assert os.listdir(target.parent) == [target.name]


def report(*command: object) -> Any:
    done = subprocess.run(
        list(map(str, command)),
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return json.loads(done.stdout)


@functools.cache
def why_strace_cannot_inject() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = ["strace", "-o", os.devnull, "-e", "inject=fsync:error=EIO", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        return "strace cannot inject faults on this machine"
    return ""


def with_fault(target: Path, subject: str, call: str, error: int, when: str) -> Any:
    """Save while one system call on the temporary file or on its folder fails."""
    if why_strace_cannot_inject():
        pytest.skip(why_strace_cannot_inject())
    part = target.with_name(f".{target.name}.{TOKEN}.safetensors-part")
    path = part if subject == "part" else target.parent
    calls = "pwritev,pwritev2" if call == "pwritev" else call
    # errno has two names for one number; strace knows the kernel's.
    name = errno.errorcode[error].replace("ENOTSUP", "EOPNOTSUPP")
    inject = f"inject={calls}:error={name}:when={when}"
    log = target.parent.with_name(f"{target.parent.name}.log")
    strace = ["strace", "-f", "-o", log, "-P", path, "-e", f"trace={calls}", "-e", inject]
    program = [sys.executable, PROGRAM, target, f"--size={SIZE}", f"--token={TOKEN}"]
    result = report(*strace, *program)
    assert "(INJECTED)" in log.read_text()
    return result


@pytest.mark.parametrize("error", NO_SPACE, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("subject", "call", "when"),
    [
        ("part", "openat", "1"),
        ("part", "fallocate", "1"),
        ("part", "pwritev", "1"),
        ("part", "pwritev", "3"),
        ("part", "fchmod", "1"),
        ("part", "fsync", "1"),
        ("part", "close", "1"),
        ("part", "rename", "1"),
        ("folder", "openat", "1"),
    ],
)
def test_a_call_that_fails_keeps_the_old_file_and_names_the_path(
    target: Path, subject: str, call: str, when: str, error: int
) -> None:
    result = with_fault(target, subject, call, error, when)
    assert result["error"] == "OSError"
    assert (result["errno"], result["filename"]) == (error, str(target))
    assert_untouched(target)


@pytest.mark.parametrize("call", ["fallocate", "pwritev", "fsync", "fchmod", "flock"])
def test_a_call_that_a_signal_interrupts_is_repeated(target: Path, call: str) -> None:
    assert with_fault(target, "part", call, errno.EINTR, "1")["error"] is None
    assert_replaced(target)


def test_a_file_system_without_preallocation_is_written_all_the_same(target: Path) -> None:
    assert with_fault(target, "part", "fallocate", errno.EOPNOTSUPP, "1+")["error"] is None
    assert_replaced(target)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_written_all_the_same(target: Path, error: int) -> None:
    assert with_fault(target, "part", "flock", error, "1+")["error"] is None
    assert_replaced(target)


def test_a_folder_that_cannot_be_synced_fails_the_save_with_a_whole_file_in_place(
    target: Path,
) -> None:
    result = with_fault(target, "folder", "fsync", errno.EIO, "1")
    assert (result["errno"], result["filename"]) == (errno.EIO, str(target))
    assert_replaced(target)


def save(target: Path) -> None:
    chunks: Callable[[], list[bytes]] = lambda: [b"\1" * (SIZE // 3)] * 3  # noqa: E731
    save_stream([("w", TensorSpec(Dtype.U8, (SIZE,)), chunks)], target)


@pytest.mark.parametrize("error", NO_SPACE, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "call",
    ["dup", "fchmod", "fsync", "fstat", "open", "posix_fallocate", "pwritev", "rename", "scandir"],
)
def test_a_failing_function_keeps_the_old_file_and_names_the_path(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    if not hasattr(os, call):
        pytest.skip(f"this system has no {call}")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, Mock(side_effect=OSError(error, os.strerror(error))))
        with pytest.raises(OSError, match=str(error)) as caught:
            save(target)
    assert (caught.value.errno, caught.value.filename) == (error, str(target))
    assert str(caught.value) == f"[Errno {error}] {os.strerror(error)}: '{target}'"
    assert_untouched(target)
    save(target)
    assert_replaced(target)


def test_an_interruption_between_creation_and_lock_leaves_nothing_behind(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(target)
    assert_untouched(target)


@pytest.mark.parametrize("most", [1, 4095, 5 << 20])
def test_a_system_that_takes_fewer_bytes_at_a_time_gets_them_all(
    target: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real = os.pwritev
    counts: list[int] = []

    def write_less(fd: int, views: list[memoryview], position: int) -> int:
        first = views[0]
        if most == 1 and len(counts) > 5000:  # enough single bytes
            counts.append(real(fd, views, position))
        else:
            counts.append(real(fd, [first[:most]], position))
        return counts[-1]

    monkeypatch.setattr(os, "pwritev", write_less)
    save(target)
    assert min(counts) <= most < SIZE
    assert_replaced(target)


def test_a_system_that_takes_no_bytes_at_all_fails_the_save(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mock runs dry, with another exception, if a write of no bytes is tried for ever.
    monkeypatch.setattr(os, "pwritev", Mock(side_effect=[0] * 100))
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        save(target)
    assert caught.value.filename == str(target)
    assert_untouched(target)


@pytest.mark.parametrize("options", [(), ("--no-fallocate",)])
def test_a_limit_on_the_size_of_files_keeps_the_old_one(
    target: Path, options: tuple[str, ...]
) -> None:
    limit = f"--file-size-limit={SIZE - 5_000_000}"
    result = report(sys.executable, PROGRAM, target, f"--size={SIZE}", limit, *options)
    assert (result["errno"], result["filename"]) == (errno.EFBIG, str(target))
    assert_untouched(target)


@pytest.mark.parametrize("options", ["", "--no-fallocate"])
def test_save_keeps_the_old_file_when_the_disk_is_full(tmp_path: Path, options: str) -> None:
    if why_no_disk_can_be_mounted():
        pytest.skip(why_no_disk_can_be_mounted())
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "old").write_bytes(b"the old file")
    script = """
        mount -t tmpfs -o size=8m none disk && cp old disk/m &&
        "$1" "$2" disk/m --size=12000000 $3 > report && ls -A disk > left && cp disk/m kept
    """
    subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, PROGRAM, options],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    result = json.loads((tmp_path / "report").read_text())
    assert (result["errno"], result["filename"]) == (errno.ENOSPC, "disk/m")
    assert (tmp_path / "kept").read_bytes() == b"the old file"
    assert (tmp_path / "left").read_text() == "m\n"
