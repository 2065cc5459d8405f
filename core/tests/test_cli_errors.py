"""What the command line promises of errors and of its streams."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

from core.tests.command_line import COMMAND, run, write_file
from safetensors_core.cli import main


@pytest.fixture
def valid_file(tmp_path: Path) -> Path:
    return write_file(tmp_path / "valid.safetensors", ["wte.weight", "bias"])


def broken_files(folder: Path) -> dict[str, Path]:
    """Files that cannot be inspected, by the reason that is reported."""
    valid = write_file(folder / "valid", ["w"]).read_bytes()
    contents = {
        "git-lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "html-page": b"<!DOCTYPE html><html></html>",
        "truncated": valid[:-1],
        "header-truncated": valid[:40],
        "trailing-data": valid + b"x",
        "unknown-dtype": valid.replace(b'"F16"', b'"F17"'),
        "zip-archive": b"PK\x03\x04" + bytes(60),
    }
    for reason, content in contents.items():
        (folder / reason).write_bytes(content)
    return {reason: folder / reason for reason in contents}


def test_a_file_that_is_refused_is_one_line_on_standard_error(tmp_path: Path) -> None:
    for path in broken_files(tmp_path).values():
        done = run("inspect", path)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"safetensors-core: {re.escape(str(path))}: .+[;.] .+\n", done.stderr)


def test_with_json_a_file_that_is_refused_is_one_object_on_standard_output(tmp_path: Path) -> None:
    for reason, path in broken_files(tmp_path).items():
        done = run("inspect", path, "--json")
        assert (done.returncode, done.stderr) == (2, "")
        document = json.loads(done.stdout)
        assert document.keys() == {"error", "message", "path", "reason"}
        assert document["error"] == "HeaderError"
        assert document["path"] == str(path)
        assert document["reason"] == reason
        assert document["message"].startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("absent", "FileNotFoundError", "No such file or directory. Check the path"),
        (".", "NotASafetensorsRepoError", "there are no safetensors files here"),
        ("pipe", "InvalidInputError", "pipe is not a regular file. Name a safetensors file"),
        ("acme://w", "InvalidInputError", "no installed plugin opens 'acme://w'"),
        ("file/below", "NotADirectoryError", "Not a directory. Check the path"),
        ("x" * 300, "OSError", "File name too long. Check the path"),
    ],
)
def test_what_cannot_be_opened_is_named_with_cause_and_remedy(
    tmp_path: Path, file: str, error: str, message: str
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    done = run("inspect", file, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert file in done.stderr
    assert message in done.stderr
    document = json.loads(run("inspect", file, "--json", cwd=tmp_path).stdout)
    assert (document["error"], document["path"]) == (error, file)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "secret", ["w"])
    path.chmod(0)
    assert f"{path}: Permission denied. Check the permissions" in run("inspect", path).stderr


def test_a_path_that_is_not_text_is_shown_inert(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff\x1b[31m")
    done = run("inspect", path)
    assert done.stderr.count("\n") == 1
    assert "a\\xff\\x1b[31m: No such file" in done.stderr
    write_file(path, ["w"])
    document = json.loads(run("inspect", path, "--json").stdout)
    assert document["path"].endswith("a\\xff\x1b[31m")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["inspect"], "safetensors-core inspect --help"),
        (["inspect", "file", "--unknown"], "safetensors-core inspect --help"),
        (["inspect", "file", "--josn"], "safetensors-core inspect --help"),
        (["inspect", "file", "--max-header", "many"], "safetensors-core inspect --help"),
        (["plugins", "surplus"], "safetensors-core plugins --help"),
        (["unknown"], "safetensors-core --help"),
        (["--unknown"], "safetensors-core --help"),
    ],
)
def test_a_wrong_call_names_the_help_to_read(arguments: list[str], place: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"safetensors-core: .+[^.?][.?] Try: {place}\n", done.stderr)
    done = run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"] == "UsageError"


def test_a_file_may_be_called_like_an_option(tmp_path: Path) -> None:
    write_file(tmp_path / "--json", ["w"])
    done = run("inspect", "--", "--json", cwd=tmp_path)
    assert done.stdout.startswith("--json: ")
    done = run("inspect", "--unknown", "--", "--json", cwd=tmp_path)
    assert done.stderr.startswith("safetensors-core: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(
    tmp_path: Path, options: list[str], unbuffered: str
) -> None:
    path = write_file(tmp_path / "many.safetensors", map(str, range(20_000)))
    with subprocess.Popen(
        [COMMAND, "inspect", path, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["inspect", "FILE"], ["inspect", "FILE", "--json"], ["-h"]])
def test_output_that_is_lost_is_an_error(
    valid_file: Path, arguments: list[str], unbuffered: str
) -> None:
    arguments = [str(valid_file) if text == "FILE" else text for text in arguments]
    with open("/dev/full", "w") as full:
        done = run(
            *arguments,
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "standard output: No space left on device" in done.stderr


def test_an_error_that_nobody_reads_as_json_is_told_as_a_line() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(
            "inspect",
            "absent",
            "--json",
            capture_output=False,
            stdout=writing,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)
    assert done.returncode == 2
    assert done.stderr == "safetensors-core: absent: No such file or directory. Check the path\n"


def test_main_returns_the_exit_status_and_leaves_the_process_alone(
    valid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(valid_file)]) == 0
    assert "wte.weight" in capsys.readouterr().out
    assert main(["inspect", "absent"]) == 2
    assert "absent: No such file" in capsys.readouterr().err


def test_too_little_memory_is_an_error_without_a_traceback(
    valid_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("safetensors_core.read_header", Mock(side_effect=MemoryError))
    assert main(["inspect", str(valid_file)]) == 2
    assert f"{valid_file}: there is not enough memory" in capsys.readouterr().err


def test_the_shell_is_offered_commands_and_frameworks() -> None:
    environment = {
        **os.environ,
        "_SAFETENSORS_CORE_COMPLETE": "bash_complete",
        "COMP_WORDS": "safetensors-core ins",
        "COMP_CWORD": "1",
    }
    assert run(env=environment).stdout == "plain,inspect\n"
