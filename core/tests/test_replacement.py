"""What a save does to the file that has the name already, and to names, modes and links."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from safetensors_core import Dtype, InvalidInputError, TensorSpec, save_stream
from safetensors_core.replacement import ReplacementFile

PROGRAM = Path(__file__).with_name("saving_program.py")


def write(path: Any, content: bytes = b"new", **options: Any) -> None:
    save_stream([("w", TensorSpec(Dtype.U8, (len(content),)), lambda: [content])], path, **options)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[Any]:
    """`os.umask`, undone afterwards."""
    previous = os.umask(0o022)
    yield os.umask
    os.umask(previous)


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_honours_the_umask(tmp_path: Path, umask: Any, mask: int, expected: int) -> None:
    umask(mask)
    write(tmp_path / "m")
    assert mode(tmp_path / "m") == expected


@pytest.mark.parametrize("existing", [0o600, 0o644, 0o640, 0o664, 0o755, 0o666])
def test_an_existing_file_keeps_its_mode(tmp_path: Path, umask: Any, existing: int) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")
    target.chmod(existing)
    umask(0o077)
    write(target)
    assert target.read_bytes().endswith(b"new")
    assert mode(target) == existing


def test_the_new_bytes_of_a_private_file_are_private_while_they_are_written(
    tmp_path: Path, umask: Any
) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")
    target.chmod(0o600)
    umask(0)
    with ReplacementFile(target, fsync=False) as file:
        assert stat.S_IMODE(os.fstat(file.part.fd).st_mode) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others")
def test_the_owner_of_an_existing_file_stays_where_the_system_allows(tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")
    os.chown(target, 1234, 5678)
    write(target)
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 5678)


def test_a_group_that_cannot_be_kept_passes_no_rights_on_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")
    target.chmod(0o664)
    real = os.fstat

    def other_group(fd: int) -> os.stat_result:
        values = list(real(fd))
        values[stat.ST_GID] += 1
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", other_group)
    monkeypatch.setattr(os, "fchown", Mock(side_effect=PermissionError))
    write(target)
    monkeypatch.undo()
    assert mode(target) == 0o644


def test_hard_links_to_the_old_file_keep_the_old_content(tmp_path: Path) -> None:
    target, link = tmp_path / "m", tmp_path / "link"
    target.write_bytes(b"old")
    os.link(target, link)
    write(target)
    assert link.read_bytes() == b"old"
    assert target.read_bytes().endswith(b"new")


def test_a_reader_of_the_old_file_keeps_reading_it(tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old content")
    with target.open("rb") as reader:
        assert reader.read(3) == b"old"
        write(target)
        assert reader.read() == b" content"


@pytest.mark.parametrize("kind", ["absolute", "relative", "chain", "into another folder"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_stays_one_and_its_target_is_replaced(
    tmp_path: Path, kind: str, dangling: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    target = tmp_path / ("elsewhere/m" if kind == "into another folder" else "m")
    if kind == "absolute":
        link.symlink_to(target)
    elif kind == "chain":
        (tmp_path / "middle").symlink_to("m")
        link.symlink_to("middle")
    else:
        link.symlink_to(target.relative_to(tmp_path))
    if not dangling:
        target.write_bytes(b"old")
    names = sorted(os.listdir(tmp_path))
    reads = os.readlink(link)

    write(link)

    assert link.is_symlink()
    assert os.readlink(link) == reads
    assert not target.is_symlink()
    assert target.read_bytes().endswith(b"new")
    assert sorted({*os.listdir(tmp_path), "m"}) == sorted({*names, "m"})
    assert os.listdir(tmp_path / "elsewhere") == (["m"] if "another" in kind else [])


def test_links_in_a_circle_are_refused_with_the_path_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as caught:
        write(tmp_path / "a")
    assert caught.value.errno == errno.ELOOP
    assert caught.value.filename == str(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("fsync", [True, False])
@pytest.mark.parametrize("path", ["missing/m", "missing/deeper/m"])
def test_a_missing_folder_is_reported_with_the_path_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, fsync: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        write(path, fsync=fsync)
    assert caught.value.filename == path
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{path}'"
    assert not os.listdir(tmp_path)


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write(folder)
    assert caught.value.filename == str(folder)
    assert folder.is_dir()
    assert os.listdir(tmp_path) == ["folder"]


def test_a_file_used_as_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError) as caught:
        write(tmp_path / "file" / "m")
    assert caught.value.filename == str(tmp_path / "file" / "m")


def test_a_pipe_is_neither_replaced_nor_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidInputError, match=r"pipe is not a regular file"):
        write(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_socket_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InvalidInputError, match="socket is not a regular file"):
            write("socket")
    assert os.listdir(tmp_path) == ["socket"]


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(InvalidInputError, match="/dev/null is not a regular file"):
        write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def saved_without_privileges(target: Path, *options: str) -> Any:
    done = subprocess.run(
        [sys.executable, PROGRAM, target, "--drop-privileges", *options],
        check=True,
        capture_output=True,
    )
    return json.loads(done.stdout)


def test_a_read_only_file_is_not_replaced(shared_folder: Path) -> None:
    target = shared_folder / "m"
    target.write_bytes(b"old")
    target.chmod(0o444)
    report = saved_without_privileges(target)
    assert (report["errno"], report["filename"]) == (errno.EACCES, str(target))
    assert target.read_bytes() == b"old"
    assert os.listdir(shared_folder) == ["m"]


def test_a_folder_without_write_permission_keeps_its_files(shared_folder: Path) -> None:
    target = shared_folder / "m"
    target.write_bytes(b"old")
    target.chmod(0o666)
    shared_folder.chmod(0o555)
    report = saved_without_privileges(target)
    assert (report["errno"], report["filename"]) == (errno.EACCES, str(target))
    assert target.read_bytes() == b"old"
    assert os.listdir(shared_folder) == ["m"]


def test_a_folder_that_cannot_be_listed_can_be_written_into(shared_folder: Path) -> None:
    shared_folder.chmod(0o333)
    report = saved_without_privileges(shared_folder / "m", "--no-fsync")
    assert report["error"] is None
    assert (shared_folder / "m").read_bytes().endswith(b"\1" * 1000)


class PathLike:
    """A path that is neither a string nor a `pathlib.Path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.mark.parametrize("kind", [str, Path, PathLike])
def test_a_path_may_be_a_string_or_path_like(tmp_path: Path, kind: Any) -> None:
    write(kind(tmp_path / "m"))
    assert (tmp_path / "m").read_bytes().endswith(b"new")


def test_a_relative_path_starts_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("m")
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("path", [b"m", 1, None, ["m"]])
def test_what_is_no_path_is_refused_by_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=f"os.PathLike, got {type(path).__name__}"):
        write(path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="holds a character that no file name can have"):
        write(path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "m" * 255,
        "ü" * 127,
        "模" * 85,
        "🤗" * 63,
        "two\nlines",
        " ",
        "-rf",
        "%s{}",
        ".hidden",
        os.fsdecode(b"not utf-8 \xff"),
    ],
    ids=ascii,
)
def test_any_name_that_the_file_system_takes_can_be_saved_twice(tmp_path: Path, name: str) -> None:
    try:
        (tmp_path / name).write_bytes(b"old")
    except OSError as error:
        pytest.skip(f"this file system does not take the name: {error.strerror}")
    for content in (b"first", b"second"):
        write(tmp_path / name, content)
        assert (tmp_path / name).read_bytes().endswith(content)
        assert os.listdir(tmp_path) == [name]


def test_a_name_too_long_for_the_file_system_is_reported_as_it_was_given(tmp_path: Path) -> None:
    target = tmp_path / ("m" * 256)
    with pytest.raises(OSError, match="too long") as caught:
        write(target)
    assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, str(target))
    assert not os.listdir(tmp_path)
