"""`safetensors-core demo` with the NumPy plugin, which is its default."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from safetensors_core import Dtype, TensorInfo
from safetensors_core.header import encode_header
from safetensors_numpy import save_file

COMMAND = str(Path(sysconfig.get_path("scripts")) / "safetensors-core")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def demo(scratch: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "demo", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )


def demo_json(scratch: Path, *arguments: str | Path) -> dict[str, Any]:
    done = demo(scratch, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Shapes and values that a careless comparison would get wrong."""
    path = tmp_path / "model.safetensors"
    payload = np.array([0x7FF0_0000_0000_0001, 0xFFF8_DEAD_BEEF_0001], np.uint64)
    arrays: dict[str, npt.NDArray[Any]] = {
        "nan": payload.view(np.float64),
        "zero": np.array([0.0, -0.0], np.float16),
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 5), np.float32),
        "matrix": np.arange(300, dtype=np.float32).reshape(100, 3),
    }
    save_file(arrays, path, {"format": "np"})
    return path


def test_demo_finds_a_copy_of_a_file_equal_byte_for_byte(file: Path, scratch: Path) -> None:
    before = file.read_bytes()
    document = demo_json(scratch, file)
    steps = document.pop("steps")
    assert document == {
        "path": str(file),
        "framework": "numpy",
        "equal": True,
        "identical": True,
    }
    assert [step["step"] for step in steps] == [
        "open",
        "tensor",
        "slice",
        "load",
        "compare",
        "save",
        "copy",
    ]
    assert all(step["seconds"] >= 0 for step in steps)
    assert {step["step"]: step["nbytes"] for step in steps}["tensor"] == 1200
    assert file.read_bytes() == before
    assert os.listdir(scratch) == []


def test_demo_reads_every_dtype_of_the_format(tmp_path: Path, scratch: Path) -> None:
    infos: dict[str, TensorInfo] = {}
    position = 0
    for dtype in sorted(Dtype, key=lambda dtype: -dtype.rank):
        nbytes = dtype.nbytes(24)
        infos[f"t.{dtype}"] = TensorInfo(dtype, (4, 6), (position, position + nbytes))
        position += nbytes
    path = tmp_path / "dtypes.safetensors"
    # Zeros and ones only, which are truth values too.
    path.write_bytes(encode_header(infos, None) + bytes([0, 1, 1] * position)[:position])
    assert demo_json(scratch, path)["identical"] is True


@pytest.mark.parametrize("shapes", [{}, {"scalar": ()}, {"empty": (0, 3)}])
def test_demo_does_without_what_a_file_has_not(
    tmp_path: Path, scratch: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    path = tmp_path / "little.safetensors"
    save_file({name: np.ones(shape) for name, shape in shapes.items()}, path)
    assert demo_json(scratch, path)["identical"] is True


def test_demo_without_a_file_makes_a_model_and_removes_it(scratch: Path) -> None:
    done = demo(scratch)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    steps = ["make", "save", "open", "tensor", "slice", "load", "compare"]
    assert [line.split()[0] for line in lines[1:-1]] == steps
    assert "148 tensors, 124,439,808 parameters" in lines[1]
    assert lines[-1] == "all equal, bit for bit"
    assert os.listdir(scratch) == []


def test_demo_names_a_file_that_is_cut_off(file: Path, scratch: Path) -> None:
    os.truncate(file, file.stat().st_size - 100)
    done = demo(scratch, file)
    assert done.returncode == 2
    assert done.stderr.startswith(f"safetensors-core: {file}: ")
    assert "100 bytes short" in done.stderr
    assert os.listdir(scratch) == []
