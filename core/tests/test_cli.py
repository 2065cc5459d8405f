"""What the command line promises of `inspect`, of errors and of its streams."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from safetensors_core import MAX_HEADER, Dtype, TensorInfo, __version__
from safetensors_core.cli import main
from safetensors_core.header import encode_header

COMMAND = str(Path(sysconfig.get_path("scripts")) / "safetensors-core")
HEAVY = {"jax", "ml_dtypes", "numpy", "paddle", "rich", "tensorflow", "torch", "tqdm"}

# What a terminal would act on: an escape sequence, its 8-bit form, a title, a bell, reordering.
HOSTILE = [
    "red\x1b[31m",
    "red\x9b31m",
    "title\x1b]0;x\x07",
    "evil\u202egnp",
    "two\nlines",
    "del\x7f",
    "hidden\u200b",
]
MARKUP = ["[bold]x[/bold]", "[/]", ":smile:", "[link=http://x]y[/link]"]


def write_file(path: Path, names: Iterable[str], metadata: Mapping[str, str] | None = None) -> Path:
    """A file of F16 tensors of shape [2, 3] that are zero."""
    infos = {
        name: TensorInfo(Dtype.F16, (2, 3), (12 * i, 12 * i + 12)) for i, name in enumerate(names)
    }
    path.write_bytes(encode_header(infos, metadata) + bytes(12 * len(infos)))
    return path


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    defaults: dict[str, Any] = {"capture_output": True, "encoding": "utf-8"}
    options = {**defaults, **options}
    return subprocess.run([COMMAND, *map(str, arguments)], check=False, **options)


def imported_by(arguments: list[str]) -> set[str]:
    """Packages that a command has imported when it ends."""
    program = (
        "import sys; from safetensors_core.cli import main; "
        f"assert main({arguments!r}) == 0; print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    python = [sys.executable, "-c", program]
    done = subprocess.run(python, check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.fixture
def mixed_file(tmp_path: Path) -> Path:
    infos = {
        "count": TensorInfo(Dtype.I64, (), (0, 8)),
        "wte.weight": TensorInfo(Dtype.F32, (5, 4), (8, 88)),
        "bias": TensorInfo(Dtype.F32, (1000,), (88, 4088)),
        "packed": TensorInfo(Dtype.F4, (3, 2), (4088, 4091)),
        "none": TensorInfo(Dtype.U8, (0, 7), (4091, 4091)),
    }
    path = tmp_path / "mixed.safetensors"
    path.write_bytes(encode_header(infos, {"format": "pt"}) + bytes(4091))
    return path


def test_inspect_json_says_all_that_the_header_says(mixed_file: Path) -> None:
    done = run("inspect", mixed_file, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    header_nbytes = mixed_file.stat().st_size - 4091 - 8

    def entry(dtype: str, shape: list[int], offsets: list[int], parameters: int) -> dict[str, Any]:
        return {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": offsets,
            "nbytes": offsets[1] - offsets[0],
            "parameters": parameters,
        }

    assert json.loads(done.stdout) == {
        "path": str(mixed_file),
        "nbytes": mixed_file.stat().st_size,
        "header_nbytes": header_nbytes,
        "metadata": {"format": "pt"},
        "tensors": {
            "count": entry("I64", [], [0, 8], 1),
            "wte.weight": entry("F32", [5, 4], [8, 88], 20),
            "bias": entry("F32", [1000], [88, 4088], 1000),
            "packed": entry("F4", [3, 2], [4088, 4091], 6),
            "none": entry("U8", [0, 7], [4091, 4091], 0),
        },
        "dtypes": {
            "I64": {"tensors": 1, "parameters": 1, "nbytes": 8},
            "F32": {"tensors": 2, "parameters": 1020, "nbytes": 4080},
            "F4": {"tensors": 1, "parameters": 6, "nbytes": 3},
            "U8": {"tensors": 1, "parameters": 0, "nbytes": 0},
        },
        "total": {"tensors": 5, "parameters": 1027, "nbytes": 4091},
    }


def test_inspect_in_a_pipe_is_aligned_lines(mixed_file: Path) -> None:
    lines = run("inspect", mixed_file).stdout.splitlines()
    start = lines.index("")
    assert lines[start + 1 :] == [
        "name        dtype  shape   bytes",
        "count       I64    []          8",
        "wte.weight  F32    [5, 4]     80",
        "bias        F32    [1000]  4,000",
        "packed      F4     [3, 2]      3",
        "none        U8     [0, 7]      0",
        "",
        "dtype  tensors  parameters  bytes",
        "I64          1           1      8",
        "F32          2       1,020  4,080",
        "F4           1           6      3",
        "U8           1           0      0",
        "total        5       1,027  4,091",
        "",
        "metadata:",
        "  format: pt",
    ]


def test_inspect_shows_a_file_without_tensors_and_metadata(tmp_path: Path) -> None:
    path = write_file(tmp_path / "empty.safetensors", [])
    done = run("inspect", path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{path}: 16 bytes, header 8 bytes, 0 tensors\n")
    assert done.stdout.endswith("metadata: none\n")


def test_hostile_names_and_metadata_are_inert_in_text(tmp_path: Path) -> None:
    metadata = {text: text for text in HOSTILE + MARKUP}
    path = write_file(tmp_path / "hostile.safetensors", HOSTILE + MARKUP, metadata)
    done = run("inspect", path)
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    for shown in [r"red\x1b[31m", r"red\x9b31m", r"evil\u202egnp", r"two\nlines", *MARKUP]:
        assert f"\n{shown} " in done.stdout
        assert f"\n  {shown}: {shown}\n" in done.stdout


def test_hostile_names_and_metadata_are_exact_and_inert_in_json(tmp_path: Path) -> None:
    names = [*HOSTILE, *MARKUP, "名前", "\N{GRINNING FACE}", 'quote"\\']
    metadata = {name: name for name in names}
    path = write_file(tmp_path / "hostile.safetensors", names, metadata)
    done = run("inspect", path, "--json")
    assert done.stdout.isascii()
    assert done.stdout.removesuffix("\n").isprintable()
    document = json.loads(done.stdout)
    assert list(document["tensors"]) == names
    assert document["metadata"] == metadata


def test_a_very_long_name_does_not_indent_the_other_lines(tmp_path: Path) -> None:
    path = write_file(tmp_path / "long.safetensors", ["short", "x" * 100_000])
    lines = run("inspect", path).stdout.splitlines()
    assert len(next(line for line in lines if line.startswith("short"))) < 120
    assert any(line.startswith("x" * 100_000 + " ") for line in lines)


def test_long_metadata_is_shortened_for_people_only(tmp_path: Path) -> None:
    metadata = {"config": "y" * 5000}
    path = write_file(tmp_path / "long.safetensors", ["w"], metadata)
    text = run("inspect", path).stdout
    assert "config: " + "y" * 200 + "… (5,000 characters, --json shows all)\n" in text
    assert json.loads(run("inspect", path, "--json").stdout)["metadata"] == metadata


def test_a_name_that_the_terminal_cannot_encode_is_escaped(tmp_path: Path) -> None:
    path = write_file(tmp_path / "names.safetensors", ["名前", "caf\xe9"])
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1:strict"}
    done = run("inspect", path, env=environment, encoding="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n\\u540d\\u524d " in done.stdout
    assert "\ncaf\xe9 " in done.stdout


def test_the_longest_header_is_an_option_with_the_default_of_the_library(mixed_file: Path) -> None:
    refused = run("inspect", mixed_file, "--max-header", "20", "--json")
    assert refused.returncode == 2
    error = json.loads(refused.stdout)
    assert error["reason"] == "header-too-large"
    needed = re.search(r"--max-header (\d+)", error["message"])
    assert needed
    assert run("inspect", mixed_file, "--max-header", needed[1]).returncode == 0
    assert f"[default: ({MAX_HEADER})]" in " ".join(run("inspect", "--help").stdout.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["inspect", "FILE"], ["plugins"], ["demo", "--help"]]
)
def test_nothing_heavy_is_imported(arguments: list[str], mixed_file: Path) -> None:
    arguments = [str(mixed_file) if text == "FILE" else text for text in arguments]
    imported = imported_by(arguments)
    assert "safetensors_core" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_click_and_no_other_library(arguments: list[str]) -> None:
    assert imported_by(arguments) & {"msgspec", "pluggy", "json", "tempfile"} == set()


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"safetensors-core {__version__}\n"


def test_without_a_command_the_help_is_shown() -> None:
    done = run()
    assert done.returncode == 0
    assert done.stdout == run("--help").stdout


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
        (".", "IsADirectoryError", "Is a directory. Name a file in it"),
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
    mixed_file: Path, arguments: list[str], unbuffered: str
) -> None:
    arguments = [str(mixed_file) if text == "FILE" else text for text in arguments]
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
    mixed_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(mixed_file)]) == 0
    assert "wte.weight" in capsys.readouterr().out
    assert main(["inspect", "absent"]) == 2
    assert "absent: No such file" in capsys.readouterr().err


def test_too_little_memory_is_an_error_without_a_traceback(
    mixed_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("safetensors_core.read_header", Mock(side_effect=MemoryError))
    assert main(["inspect", str(mixed_file)]) == 2
    assert f"{mixed_file}: there is not enough memory" in capsys.readouterr().err


def test_the_shell_is_offered_commands_and_frameworks() -> None:
    environment = {
        **os.environ,
        "_SAFETENSORS_CORE_COMPLETE": "bash_complete",
        "COMP_WORDS": "safetensors-core ins",
        "COMP_CWORD": "1",
    }
    assert run(env=environment).stdout == "plain,inspect\n"
