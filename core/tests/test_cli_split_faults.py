"""What `split` and `merge` leave behind when they are stopped: the source, the target as it was."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.tests.checkpoints import write_shards
from core.tests.command_line import COMMAND, run
from core.tests.disks import why_no_disk_can_be_mounted
from core.tests.raw import RawTensor, file_bytes
from safetensors_core import Dtype
from safetensors_core.checkpoint.splitting import merge_checkpoint, split_checkpoint

MIB = 1024 * 1024

# The command, which sends a signal to itself once half of the bytes are copied.
STOPPED = """
import contextlib, os, sys
from unittest.mock import patch
from safetensors_core.cli import main

def progress(done, total):
    if done >= total // 2:
        os.kill(os.getpid(), int(sys.argv[1]))

bar = lambda *_, **__: contextlib.nullcontext(progress)
with patch("safetensors_core.cli.splitting.progress_bar", bar):
    sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two files of two tensors each, 8 MiB in all."""
    names = ["a", "b", "c", "d"]
    tensors = {
        name: RawTensor(Dtype.U8, (2 * MIB,), bytes([i]) * (2 * MIB))
        for i, name in enumerate(names)
    }
    shards = {f"{i}.safetensors": {n: tensors[n] for n in names[i : i + 2]} for i in (0, 2)}
    return write_shards(tmp_path / "model", shards)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with an older checkpoint of one file."""
    folder = tmp_path / "old"
    folder.mkdir()
    tensors = {"old": RawTensor(Dtype.U8, (3,), b"old")}
    (folder / "model.safetensors").write_bytes(file_bytes(tensors))
    return folder


def calls(model: Path, old: Path) -> list[list[str]]:
    """Both commands, over something that is there already."""
    return [
        ["split", str(model), str(old), "--max-shard-size", "2MiB", "--overwrite"],
        ["merge", str(model), str(old / "model.safetensors"), "--overwrite"],
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_command_that_is_stopped_leaves_everything_as_it_was(
    tmp_path: Path, model: Path, old: Path, number: int, status: int
) -> None:
    before = contents(tmp_path)
    for arguments in calls(model, old):
        done = subprocess.run(
            [sys.executable, "-c", STOPPED, str(int(number)), *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (status, "")
        assert "Traceback" not in done.stderr
        assert contents(tmp_path) == before


def test_a_new_folder_is_not_left_behind_by_a_command_that_is_stopped(
    tmp_path: Path, model: Path
) -> None:
    before = contents(tmp_path)
    arguments = ["split", str(model), str(tmp_path / "new"), "--max-shard-size", "2MiB"]
    program = [sys.executable, "-c", STOPPED, str(int(signal.SIGINT)), *arguments]
    assert subprocess.run(program, check=False, capture_output=True).returncode == 130
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_grow_leaves_everything_as_it_was(
    tmp_path: Path, model: Path, old: Path
) -> None:
    before = contents(tmp_path)
    for arguments in calls(model, old):
        limit = MIB

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = run(*arguments, preexec_fn=limited)
        assert (done.returncode, done.stdout) == (2, "")
        assert "File too large" in done.stderr
        assert done.stderr.count("\n") == 1
        assert contents(tmp_path) == before


@pytest.mark.skipif(bool(why_no_disk_can_be_mounted()), reason=why_no_disk_can_be_mounted())
@pytest.mark.parametrize("command", ["split", "merge"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, model: Path, command: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    target = disk / "out"
    call = [COMMAND, command, str(model), str(target)]
    script = (
        f"mount -t tmpfs -o size=5m none {disk} && {shlex.join(call)}; status=$?; "
        f"ls -A {disk}; exit $status"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{target}" in done.stderr
    assert "No space left on device. Free some space\n" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_source_that_is_replaced_meanwhile_is_copied_as_it_was(
    tmp_path: Path, model: Path
) -> None:
    expected = tmp_path / "expected"
    merge_checkpoint(model, expected)
    replaced = False

    def replace(_done: int, _total: int) -> None:
        nonlocal replaced
        if not replaced:
            replaced = True
            for path in model.glob("*.safetensors"):
                new = path.with_name("new")
                new.write_bytes(bytes(path.stat().st_size))
                new.rename(path)

    merge_checkpoint(model, tmp_path / "merged", progress=replace)
    assert replaced
    assert (tmp_path / "merged").read_bytes() == expected.read_bytes()


def test_a_source_that_is_cut_short_meanwhile_is_an_error_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    # More than what is read ahead.
    big = RawTensor(Dtype.U8, (64 * MIB,), bytes(64 * MIB))
    source = tmp_path / "big.safetensors"
    source.write_bytes(file_bytes({"big": big}))
    for copy in (split_checkpoint, merge_checkpoint):
        source.write_bytes(file_bytes({"big": big}))
        with pytest.raises(OSError, match="ended at byte") as caught:
            copy(source, tmp_path / "out", progress=lambda *_: os.truncate(source, 1000))
        assert caught.value.filename == str(source)
        assert os.listdir(tmp_path) == [source.name]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("command", ["split", "merge"])
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path, command: str) -> None:
    tensors = {str(i): RawTensor(Dtype.U8, (32 * MIB,), bytes(32 * MIB)) for i in range(10)}
    source = tmp_path / "big.safetensors"
    source.write_bytes(file_bytes(tensors))
    del tensors
    program = (
        "import resource, sys; from safetensors_core.cli import main; "
        "status = main(sys.argv[1:]); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr); "
        "sys.exit(status)"
    )
    arguments = [command, str(source), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    )
    assert int(done.stderr) * 1024 < 200 * MIB
