"""The order of the system calls of a save, as the kernel sees them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from safetensors_core import Dtype, TensorSpec, save_stream

PROGRAM = Path(__file__).with_name("saving_program.py")
TOKEN = "0123456789abcdef"
WRITES = ("pwrite64", "pwritev", "pwritev2", "write", "writev")
SYNCS = ("fdatasync", "fsync", "msync", "sync", "sync_file_range", "syncfs")
CHANGES = ("ftruncate", "rename", "renameat", "renameat2", "unlink", "unlinkat")


def traced(target: Path, *options: str) -> list[str]:
    """System calls of a save that concern its files, by name and by what they act on."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run(
        [strace, "-o", os.devnull, "true"], check=False, capture_output=True
    ).returncode:
        pytest.skip("this machine does not let strace trace")
    log = target.parent.with_name("strace.log")
    calls = ",".join(WRITES + SYNCS + CHANGES)
    tracer = [strace, "-f", "-y", "-o", str(log), "-e", f"trace={calls}"]
    program = [sys.executable, str(PROGRAM), str(target), f"--token={TOKEN}", *options]
    subprocess.run(
        tracer + program,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    part = target.with_name(f".{target.name}.{TOKEN}.safetensors-part")
    subjects = {str(part): "part", str(target): "target", str(target.parent): "folder"}
    found = []
    for line in log.read_text().splitlines():
        call = re.match(r"\d+\s+(\w+)\((.*)", line)
        if call is None:  # the end of a process, or of a call that is in the log already
            continue
        name, arguments = call.groups()
        name = "write" if name in WRITES else name
        paths = re.findall(r'[<"](/[^>"]*)[>"]', arguments)
        acts_on = [subjects[path] for path in paths if path in subjects]
        if acts_on:
            found.append(f"{name} {' '.join(acts_on)}")
    return found


def without_repeats(calls: list[str]) -> list[str]:
    return [call for i, call in enumerate(calls) if not i or call != calls[i - 1]]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A path in a folder that holds nothing else."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "model.safetensors"


@pytest.mark.parametrize("existing", [False, True])
def test_a_save_writes_then_syncs_then_renames_then_syncs_the_folder(
    target: Path, existing: bool
) -> None:
    if existing:
        target.write_bytes(b"old")
    calls = traced(target, "--size=20000000")
    assert calls.count("write part") > 1
    assert without_repeats(calls) == [
        "write part",
        "fsync part",
        "rename part target",
        "fsync folder",
    ]


def test_a_save_without_fsync_syncs_nothing(target: Path) -> None:
    calls = traced(target, "--size=20000000", "--no-fsync")
    assert without_repeats(calls) == ["write part", "rename part target"]


def test_through_a_link_it_is_the_folder_of_the_file_that_is_synced(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = target.parent.with_name("link")
    link.symlink_to(target)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    save_stream([("w", TensorSpec(Dtype.U8, (1,)), lambda: [b"a"])], link)
    assert synced == [target.stat().st_ino, target.parent.stat().st_ino]
