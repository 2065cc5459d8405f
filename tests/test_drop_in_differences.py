"""The tables of "Existing programs", held to the reference, to ours, and to ours in strict mode."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "user" / "drop-in.md").read_text("utf-8")
PROGRAM = Path(__file__).with_name("differences.py")
COMPAT = ["-m", "safetensors_core.compat"]
SIDES = {"reference": [], "ours": COMPAT, "strict": [*COMPAT, "--strict"]}

REFUSED = "SafetensorError"
# What the program does; how the row begins; what the three sides give.
ROWS: dict[str, tuple[str, Any, Any, Any]] = {
    "strided": ("a transposed or strided NumPy", [[0, 1], [2, 3]], [[0, 2], [1, 3]], "="),
    "conjugated": ("a PyTorch tensor that is a view by `conj()`", "(1+2j)", "(1-2j)", "="),
    "jax integers": ("JAX arrays of 64 bits", "int32", "int64", "="),
    "mlx floats": ("MLX and F64", "float32", "float64", "="),
    "named __metadata__": (
        "a tensor is called `__metadata__`",
        "a file that nobody can read",
        REFUSED,
        "=",
    ),
    "dict is not changed": ("the dict that you save", False, True, "="),
    "numpy F8 file": ("NumPy: F8,", "AttributeError", "float8_e4m3fn", REFUSED),
    "numpy BF16 bytes": ("NumPy: F8,", "KeyError", "bfloat16", "KeyError"),
    "jax F8 file": ("JAX, TensorFlow: F8", "AttributeError", "float8_e4m3fn", "="),
    "jax BF16 bytes": ("JAX, TensorFlow: F8", "KeyError", "bfloat16", "="),
    "mlx BF16 bytes": ("MLX: BF16 from bytes", "KeyError", "bfloat16", "="),
    "torch E8M0 bytes": ("PyTorch: F4 and F8_E8M0", "KeyError", "float8_e8m0fnu", "="),
    "mlx F8 bytes": ("a dtype that the framework or the format", "KeyError", REFUSED, "="),
    "torch complex128": ("a dtype that the framework or the format", "KeyError", REFUSED, "="),
    "mixed": ("tensors of several frameworks", "AttributeError", 2, "="),
    "numpy scalar": ("a NumPy scalar, or a tensor", "AttributeError", 68, "="),
    "torch in numpy": ("a NumPy scalar, or a tensor", "AttributeError", 68, "="),
    "save meta": ("`save_file` of a tensor on `meta`", "NotImplementedError", REFUSED, "="),
    "extra state": (
        "`save_model` of a model with extra state",
        "AttributeError",
        "ValueError",
        "=",
    ),
    "model on meta": ("`load_model` into a model on `meta`", "meta", REFUSED, "="),
    "interleaved": ("`load_model` into a model with interleaved", "RuntimeError", 8.0, "="),
    "headers": ("a header with white space in front", 3, REFUSED, "="),
    "stop past the end": ("a bound or an integer past the end", REFUSED, REFUSED, "="),
    "start past the end": ("a bound or an integer past the end", REFUSED, REFUSED, "="),
    "integer past the end": ("a bound or an integer past the end", REFUSED, REFUSED, "="),
    "negative bound": ("negative bounds", "OverflowError", [2, 2], "OverflowError"),
    "start behind stop": ("a start behind the stop", "SystemError", [0, 2], REFUSED),
    "no rows": ("any slice of a dimension of size 0", REFUSED, [0, 2], REFUSED),
    "device meta": ("`device` for PyTorch", REFUSED, "meta", REFUSED),
    "device cpu:0": ("`device` for PyTorch", REFUSED, "cpu", REFUSED),
    "torch.device": ("`device` for PyTorch", REFUSED, "cpu", REFUSED),
    "mode": ("mode of a new file", "0o600", "0o644", "="),
    "kept mode": ("mode of a file that is replaced", "0o600", "0o640", "="),
    "link stays": ("a symbolic link", False, True, "="),
    "pipe stays": ("a target that is read-only", False, REFUSED, "="),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the program printed on each side."""
    found: dict[str, dict[str, Any]] = {}
    for side, start in SIDES.items():
        done = subprocess.run(
            [sys.executable, *start, str(PROGRAM)],
            check=False,
            cwd=tmp_path_factory.mktemp(side),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found[side] = json.loads(done.stdout)
    return found


def test_each_side_is_what_it_is_called(results: dict[str, dict[str, Any]]) -> None:
    drop_in = ["drop_in" in results[side]["file"] for side in SIDES]
    assert drop_in == [False, True, True]


@pytest.mark.parametrize("done", ROWS)
def test_a_row_says_what_happens(results: dict[str, dict[str, Any]], done: str) -> None:
    _, reference, ours, strict = ROWS[done]
    expected = [reference, ours, ours if strict == "=" else strict]
    assert [results[side][done] for side in SIDES] == expected


@pytest.mark.parametrize("done", ROWS)
def test_a_row_says_what_strict_mode_changes(done: str) -> None:
    row, *_, strict = ROWS[done]
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {row}")]
    last = line.rstrip("|").rpartition("|")[2].strip()
    assert (last == "") is (strict == "=")
    assert strict == "=" or re.search(rf"`{strict}`", last)


def test_metadata_of_several_keys_is_sorted(results: dict[str, dict[str, Any]]) -> None:
    assert results["reference"]["metadata orders"] > 1
    assert results["ours"]["metadata orders"] == results["strict"]["metadata orders"] == 1
