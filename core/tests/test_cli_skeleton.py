"""`safetensors-core new-plugin` makes its folder whole or not at all, and changes nothing else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.tests.command_line import COMMAND, run
from core.tests.disks import why_no_disk_can_be_mounted
from core.tests.new_package import contents, refused
from safetensors_core.cli.skeleton import write

ACME = ("new-plugin", "acme", "--framework", "acme")


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "dangling link"])
def test_what_exists_is_left_as_it_is(
    kind: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = home / "safetensors-acme"
    if kind == "file":
        target.write_text("mine")
    elif kind == "dangling link":
        target.symlink_to("nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "mine").touch()
    before = target.lstat()
    line = refused(capsys, *ACME[1:])
    assert line.startswith("safetensors-core: ./safetensors-acme: it exists, and is left as it is.")
    assert target.lstat() == before
    assert os.listdir(home) == ["safetensors-acme"]


def test_a_folder_that_comes_into_being_meanwhile_is_left_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def too_late(path: Path, target: str) -> Path:
        Path(target).mkdir()
        Path(target, "mine").touch()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", too_late)
    with pytest.raises(OSError, match="not empty") as caught:
        write({"new": ""}, "target")
    assert caught.value.filename == "target"
    assert contents(home) == {"target/mine"}
    assert os.listdir(home) == ["target"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "nowhere: No such file or directory. Check the path"),
        ("file", "file: Not a directory. Check the path"),
        ("file/x", "file/x: Not a directory. Check the path"),
        ("x" * 300, f"{'x' * 300}: File name too long. Check the path"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(
    folder: str, message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").touch()
    line = refused(capsys, *ACME[1:], "--folder", folder)
    assert line == f"safetensors-core: {message}\n"
    assert os.listdir(home) == ["file"]


@pytest.mark.parametrize("folder", ["-x", "a b", "new\nline", "it's"])
def test_a_folder_of_any_name_is_shown_so_that_the_commands_work(folder: str, home: Path) -> None:
    (home / folder).mkdir()
    done = run(*ACME, f"--folder={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\n", "").isprintable()
    done = run("new-plugin", "beta", "--framework", "acme", f"--folder={folder}", "--json")
    command = json.loads(done.stdout)["commands"][-1]
    found = subprocess.run(command, shell=True, check=True, cwd=home, capture_output=True)
    assert b"FILL IN" in found.stdout


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike `tmp_path`, and not write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_without_permission_is_an_error_that_names_the_target(shared_folder: Path) -> None:
    user = os.geteuid()
    if user == 0:  # root may write to every folder
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError) as caught:
            write({"new": ""}, str(shared_folder / "target"))
    finally:
        os.seteuid(user)
    assert caught.value.filename == str(shared_folder / "target")
    assert os.listdir(shared_folder) == []


@pytest.mark.parametrize(("mask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_others_may_do_what_the_umask_lets_them(
    mask: int, folder: int, file: int, home: Path
) -> None:
    previous = os.umask(mask)
    try:
        write({"src/new": ""}, "target")
    finally:
        os.umask(previous)
    modes = [path.stat().st_mode & 0o777 for path in (home / "target", home / "target/src/new")]
    assert modes == [folder, file]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(home: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = run(*ACME, preexec_fn=limit)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "safetensors-core: ./safetensors-acme: File too large\n"
    assert os.listdir(home) == []


def test_a_full_disk_leaves_nothing_behind(home: Path) -> None:
    if why_no_disk_can_be_mounted():
        pytest.skip(why_no_disk_can_be_mounted())
    (home / "disk").mkdir()
    script = """
        mount -t tmpfs -o size=8k none disk
        "$@" --folder disk 2> message; echo $? > status; ls -A disk > left
    """
    command = ["unshare", "-rm", "sh", "-c", script, "sh", COMMAND, *ACME]
    subprocess.run(command, check=True, cwd=home)
    assert (home / "message").read_text() == (
        "safetensors-core: disk/safetensors-acme: No space left on device. Free some space\n"
    )
    assert (home / "status").read_text() == "2\n"
    assert (home / "left").read_text() == ""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_command_that_is_stopped_leaves_nothing_behind(
    number: signal.Signals, status: int, home: Path
) -> None:
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from safetensors_core.cli import main

        def stop(path, target):
            assert list(path.iterdir())
            os.kill(os.getpid(), {int(number)})
            signal.pause()

        Path.rename = stop
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(main({list(ACME)}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True
    )
    assert done.returncode == status, done.stderr
    assert os.listdir(home) == []
