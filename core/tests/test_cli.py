"""What the command line promises of `inspect`, and of what it imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.tests.command_line import run, write_file
from safetensors_core import MAX_HEADER, Dtype, TensorInfo, __version__
from safetensors_core.header import encode_header

HEAVY = {"jax", "ml_dtypes", "mlx", "numpy", "paddle", "rich", "tensorflow", "torch", "tqdm"}

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
