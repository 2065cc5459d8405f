"""Saves of checkpoints that are killed, interrupted or refused at any step, and full disks."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.disks import why_no_disk_can_be_mounted
from safetensors_core import Dtype, TensorSpec
from safetensors_core.checkpoint.saving import write_checkpoint

ROOT = Path(__file__).parents[2]
OLD, NEW, NEXT = [1, 1, 1], [2, 2, 2], [3, 3, 3]

# From how many files to how many; between 3 and 3, the names of the shards are the same.
REPLACEMENTS = [(0, 1), (0, 3), (1, 1), (1, 3), (3, 1), (3, 2), (3, 3)]
PART = re.compile(r"\..+\.[0-9a-f]{16}\.(safetensors-part|previous\.safetensors)")


def stopped(folder: Path, how: str, before: int, now: int, *options: str) -> list[dict[str, Any]]:
    """What a save left that was stopped at each of its steps."""
    counts = (f"--before={before}", f"--now={now}")
    program: list[Any] = [sys.executable, "-m", "core.tests.checkpoint_program", folder, how]
    done = subprocess.run([*program, *counts, *options], check=True, capture_output=True, cwd=ROOT)
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(reports) > 15
    return reports


def names(count: int) -> list[str]:
    """The files of a checkpoint."""
    if count == 1:
        return ["model.safetensors"]
    shards = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    return [*shards, "model.safetensors.index.json"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("before", "now"), REPLACEMENTS)
def test_a_killed_save_leaves_a_whole_checkpoint_and_nothing_but_known_leftovers(
    tmp_path: Path, before: int, now: int, when: str
) -> None:
    options = ["--after"] if when == "after" else []
    then = 2 if now == 1 else 1  # so that none of its files has the name of an older one
    seen = []
    for report in stopped(tmp_path, "kill", before, now, f"--then={then}", *options):
        assert report["status"] == -signal.SIGKILL
        seen += report["held"]
        assert report["held"] or not before, report
        assert all(held in (OLD, NEW) for held in report["held"]), report
        left = set(report["files"] or ()) - {*names(before or 1), *names(now)}
        assert all(PART.fullmatch(name) for name in left), report
        # The next save leaves nothing but itself.
        assert report["next"] == {"files": names(then), "held": [NEXT]}, report
    assert NEW in seen
    assert (OLD in seen) is (before > 0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("before", "now"), REPLACEMENTS)
@pytest.mark.parametrize("how", ["interrupt", "refuse"])
def test_an_error_at_any_step_leaves_the_old_or_the_new_checkpoint_and_no_temporary_files(
    tmp_path: Path, how: str, before: int, now: int, when: str
) -> None:
    options = ["--after"] if when == "after" else []
    reports = stopped(tmp_path, how, before, now, *options)
    for report in reports:
        if NEW in report["held"]:
            # Between the last rename and the end, files of the old one may have stayed.
            assert set(names(now)) <= set(report["files"]), report
            assert all(held in (OLD, NEW) for held in report["held"]), report
        elif before:
            assert report["held"] == [OLD], report
            assert report["files"] == names(before), report
        else:
            assert not report["files"], report
        hidden = [name for name in report["files"] or () if name.startswith(".")]
        # The system may refuse to remove one.
        assert len(hidden) <= (how == "refuse"), report
    assert {report["status"] for report in reports} <= {0, 2}
    assert sum(report["status"] == 2 for report in reports) > len(reports) // 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_hard_links_a_kill_leaves_whole_checkpoints_or_one_that_misses_a_file(
    tmp_path: Path, when: str
) -> None:
    options = ["--no-links", *(["--after"] if when == "after" else [])]
    seen = []
    for report in stopped(tmp_path, "kill", 3, 3, *options):
        (held,) = report["held"]
        seen.append(held)
        assert held in (OLD, NEW, "a shard is missing"), report
        assert report["next"] == {"files": names(1), "held": [NEXT]}, report
    assert NEW in seen


@pytest.mark.parametrize("how", ["interrupt", "refuse"])
def test_without_hard_links_an_error_at_any_step_brings_the_old_checkpoint_back(
    tmp_path: Path, how: str
) -> None:
    for report in stopped(tmp_path, how, 3, 3, "--no-links"):
        assert report["held"] in ([OLD], [NEW]), report
        hidden = [name for name in report["files"] if name.startswith(".")]
        assert len(hidden) <= (how == "refuse"), report


@pytest.mark.parametrize("how", ["interrupt", "refuse"])
def test_an_error_after_a_kill_keeps_the_checkpoint_from_before_both(
    tmp_path: Path, how: str
) -> None:
    for report in stopped(tmp_path, how, 3, 3, "--killed"):
        assert report["held"] in ([OLD], [NEW]), report


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_save_keeps_what_a_killed_save_of_another_checkpoint_left(
    tmp_path: Path, renames: int
) -> None:
    write(tmp_path, b"1", filename_pattern="another{suffix}.safetensors")
    save_and_die(tmp_path, renames, filename_pattern="another{suffix}.safetensors")
    assert any(name.endswith("-part") for name in os.listdir(tmp_path))
    write(tmp_path, b"3")
    index = json.loads((tmp_path / "another.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        data = (tmp_path / file).read_bytes()
        assert data[-1000:] == b"1" * 1000, name
    write(tmp_path, b"4", filename_pattern="another{suffix}.safetensors")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def save_and_die(folder: Path, renames: int, **options: Any) -> None:
    """A save in another process, which is killed after some renames."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    rename = os.rename
    done: list[str] = []

    def count(source: str, target: str) -> None:
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target)
        rename(source, target)

    os.rename = count  # type: ignore[assignment]
    write(folder, b"2", **options)


def test_an_error_gives_the_old_index_back_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, b"1")
    path, rename = tmp_path / names(3)[-1], os.rename
    path.write_text(json.dumps({"by": "another program", **json.loads(path.read_text())}))
    before = path.read_bytes()

    def refuse_shards(source: str, target: str) -> None:
        if os.path.basename(target) == names(3)[0]:
            raise OSError(errno.EIO, "refused")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_shards)
    with pytest.raises(OSError, match="refused"):
        write(tmp_path, b"2")
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_an_exception_while_a_shard_is_written_changes_nothing(
    tmp_path: Path, kind: type[BaseException], shard: int
) -> None:
    write(tmp_path, b"1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail() -> Iterator[bytes]:
        yield b"2" * 500
        raise kind("from the producer")

    entries = [(f"t{i}", TensorSpec(Dtype.U8, (1000,)), lambda: [b"2" * 1000]) for i in range(3)]
    entries[shard] = (f"t{shard}", entries[shard][1], fail)  # type: ignore[assignment]
    with pytest.raises(kind, match="from the producer"):
        write_checkpoint(entries, tmp_path, 1000)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def write(folder: Path, byte: bytes, **options: Any) -> None:
    entries = [(f"t{i}", TensorSpec(Dtype.U8, (1000,)), lambda: [byte * 1000]) for i in range(3)]
    write_checkpoint(entries, folder, 1000, **options)


def test_a_save_that_is_at_work_is_never_taken_for_a_leftover(tmp_path: Path) -> None:
    listed: list[str] = []

    def save_another() -> Iterator[bytes]:
        write(tmp_path, b"3", filename_pattern="another{suffix}.safetensors")
        listed.extend(name for name in os.listdir(tmp_path) if name.startswith("."))
        yield b"2" * 1000

    entries = [(f"t{i}", TensorSpec(Dtype.U8, (1000,)), save_another) for i in range(3)]
    write_checkpoint(entries, tmp_path, 1000)
    assert len(listed) == 2 + 3 + 4  # the lock, and one file more each time
    shards = [f"{stem}-0000{i}-of-00003" for stem in ("another", "model") for i in (1, 2, 3)]
    files = [*(f"{shard}.safetensors" for shard in shards), "another.safetensors.index.json"]
    assert sorted(os.listdir(tmp_path)) == sorted([*files, "model.safetensors.index.json"])


def test_a_save_without_fsync_syncs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write(tmp_path, b"1", fsync=False)
    write(tmp_path, b"2", fsync=False)
    assert not synced
    write(tmp_path, b"3")
    assert synced


def test_every_file_is_on_disk_before_it_gets_its_name_and_the_folder_before_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, b"1")
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(fd: int) -> None:
        sync(fd)
        calls.append(f"sync {os.fstat(fd).st_ino}")

    def note_rename(source: str, target: str) -> None:
        calls.append(f"rename {os.stat(source).st_ino} {os.path.basename(target)}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    write(tmp_path, b"2")
    folder = f"sync {tmp_path.stat().st_ino}"
    renames = [call.split() for call in calls if call.startswith("rename")]
    assert [name for _, _, name in renames] == [names(3)[-1], *names(3)]
    for _, inode, name in renames:
        done = calls.index(f"rename {inode} {name}")
        assert f"sync {inode}" in calls[:done]
    first_shard = calls.index(f"rename {renames[1][1]} {renames[1][2]}")
    assert calls[first_shard - 1] == folder  # the old index names what will not be replaced
    assert calls[-2:] == [folder, folder]
    assert calls[-4] == folder  # all shards have their names before the index has


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system has no fallocate")
@pytest.mark.parametrize("shard", [1, 2, 3])
def test_a_full_disk_keeps_the_old_checkpoint_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    write(tmp_path, b"1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls: list[int] = []

    def fill(fd: int, offset: int, nbytes: int) -> None:  # noqa: ARG001
        calls.append(nbytes)
        if len(calls) == shard:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fill)
    with pytest.raises(OSError, match="No space") as caught:
        write(tmp_path, b"2")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / names(3)[shard - 1])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_disk_that_is_really_full_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    if why_no_disk_can_be_mounted():
        pytest.skip(why_no_disk_can_be_mounted())
    (tmp_path / "disk").mkdir()
    program = """
import errno, os, sys
from core.tests.test_save_checkpoint_faults import names
from safetensors_core import Dtype, TensorSpec
from safetensors_core.checkpoint.saving import write_checkpoint
def entries(size):
    return [(f"t{i}", TensorSpec(Dtype.U8, (size,)), lambda: [bytes(size)]) for i in range(3)]
write_checkpoint(entries(1_000_000), sys.argv[1], 1_000_000)
before = [(entry.name, entry.inode()) for entry in os.scandir(sys.argv[1])]
try:
    write_checkpoint(entries(2_000_000), sys.argv[1], 2_000_000)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError("it was not full")
assert sorted(before) == sorted((e.name, e.inode()) for e in os.scandir(sys.argv[1]))
"""
    script = 'mount -t tmpfs -o size=8m none "$3" && exec "$1" -c "$2" "$3"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, program]
    subprocess.run([*command, tmp_path / "disk"], check=True, cwd=ROOT, capture_output=True)


MANY_SHARDS = """
import resource, sys
from safetensors_core import Dtype, TensorSpec
from safetensors_core.checkpoint.saving import write_checkpoint
def chunks():
    for _ in range(2):
        yield bytes(1 << 20)
def entries(count):
    return [(f"t{i}", TensorSpec(Dtype.U8, (2 << 20,)), chunks) for i in range(count)]
write_checkpoint(entries(2), sys.argv[1], 1, fsync=False)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2):
    write_checkpoint(entries(80), sys.argv[1], 1, fsync=False)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown if sys.platform == "darwin" else grown * 1024)
"""


def test_memory_and_open_files_stay_few_however_many_shards_there_are(tmp_path: Path) -> None:
    program = [sys.executable, "-c", MANY_SHARDS, str(tmp_path)]
    done = subprocess.run(program, check=True, capture_output=True)
    assert int(done.stdout) < 16 << 20
    assert len(os.listdir(tmp_path)) == 81


WITHOUT_PRIVILEGES = """
import os, sys
from safetensors_core import Dtype, TensorSpec
from safetensors_core.checkpoint.saving import write_checkpoint
entries = [(f"t{i}", TensorSpec(Dtype.U8, (1000,)), lambda: [bytes(1000)]) for i in range(3)]
try:
    write_checkpoint(entries, os.devnull, 1000)  # imports what is needed
except NotADirectoryError:
    pass
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    write_checkpoint(entries, sys.argv[1], 1000)
except PermissionError as error:
    print(error.filename, end="")
"""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("read_only", ["folder", "shard", "index"])
def test_what_is_read_only_is_not_replaced_and_named(shared_folder: Path, read_only: str) -> None:
    write(shared_folder, b"1")
    for path in shared_folder.iterdir():
        path.chmod(0o666)
    shared_folder.chmod(0o777)
    places = {"folder": "", "shard": names(3)[1], "index": names(3)[-1]}
    place = shared_folder / places[read_only]
    place.chmod(0o555)
    before = {path.name: path.read_bytes() for path in shared_folder.iterdir()}
    program = [sys.executable, "-c", WITHOUT_PRIVILEGES, str(shared_folder)]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    assert done.stdout == str(place)
    assert {path.name: path.read_bytes() for path in shared_folder.iterdir()} == before
