"""The benchmarks compare the same work on both sides."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cases import CASES, Case
from benchmarks.checkpoints import make_arrays
from benchmarks.files import write_file
from benchmarks.frameworks import FRAMEWORKS, handling
from benchmarks.setting import Setting
from benchmarks.sides import SIDES, Side, find
from benchmarks.values import of_tensors, touch
from benchmarks.worker import WARM_UP, take_sample

ROOT = Path(__file__).resolve().parents[1]
SCALE = 0.002


def here(side: Side) -> bool:
    """Whether a side is in this environment: two versions of a package need two processes."""
    found = find(side)
    return found.missing is None and found.folder is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("benchmarks"))
    files = {(case.checkpoint, side.kind) for case in CASES for side in case.sides if here(side)}
    for checkpoint, kind in files:
        for scale in (SCALE, SCALE * WARM_UP):
            if checkpoint:
                write_file(folder, checkpoint, scale, kind)
    return folder


@pytest.fixture(autouse=True)
def _small_heap() -> Iterator[None]:
    """Hide what frameworks have allocated from the collections that samples begin with."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_the_names_of_cases_and_of_sides_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({side.name for side in SIDES}) == len(SIDES)


def test_targets_are_about_sides_that_do_the_work() -> None:
    for case in CASES:
        names = {side.name: side.role for side in case.sides}
        for target in case.targets:
            assert not target.side or names[target.side] == "limit"
            assert target.kind != "peer" or "peer" in names.values()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_sides_compute_the_same(case: Case, folder: str) -> None:
    if case.name.startswith("metadata-"):
        for package in ("aiohttp", "fsspec", "huggingface_hub"):
            pytest.importorskip(package, reason="this environment reads nothing from the Hub")
    before = sorted(Path(folder).iterdir())
    samples = {
        # Continuous integration has no GPU: what is done to one is done to the host.
        side.role + side.name: take_sample(case, side, folder, SCALE, device="cpu")
        for side in case.sides
        if here(side)
    }
    expected = samples["oursours"]["value"]
    assert expected is not None
    for name, sample in samples.items():
        assert sample["value"] == (None if name.startswith("limit") else expected)
        assert sample["measured"] > 0 or case.work.metric != "seconds"
    assert sorted(Path(folder).iterdir()) == before


def test_touching_reads_every_byte() -> None:
    arrays = make_arrays("small", SCALE)
    expected = touch(arrays, "numpy")
    for array in arrays.values():
        last = array.reshape(-1).view(np.uint8)[-1:]
        last ^= 1
        assert touch(arrays, "numpy") != expected
        last ^= 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_reading_a_tensor_copies_nothing(framework: str, folder: str) -> None:
    view = handling(framework).array
    arrays = make_arrays("small", SCALE)
    for name, tensor in Setting(framework, "small", SCALE, folder).tensors().items():
        array = view(tensor)
        np.testing.assert_array_equal(array, arrays[name])
        # JAX remembers the array that it has made, copied or not, but tells its own address.
        jax = framework == "jax"
        own = tensor.unsafe_buffer_pointer() if jax else view(tensor).ctypes.data
        assert array.ctypes.data == own


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_tensors_are_packed_without_a_change_of_content(framework: str, folder: str) -> None:
    use = handling(framework)
    tensor = next(iter(Setting(framework, "large", SCALE, folder).tensors().values()))
    half = use.contiguous(tensor[:, : tensor.shape[1] // 2])
    assert use.array(half).flags.c_contiguous
    np.testing.assert_array_equal(use.array(half), use.array(tensor)[:, : tensor.shape[1] // 2])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_difference_between_the_sides_is_noticed(framework: str, folder: str) -> None:
    setting = Setting(framework, "small", SCALE, folder)
    tensors = setting.tensors()
    expected = of_tensors(setting, tensors)
    first, second = list(tensors)[0::4][:2]  # of the same shape
    tensors[first], tensors[second] = tensors[second], tensors[first]
    assert of_tensors(setting, tensors) != expected


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_parts_of_a_tensor_at_each_others_places_are_noticed(framework: str, folder: str) -> None:
    setting = Setting(framework, "small", SCALE, folder)
    tensors = setting.tensors()
    expected, total = of_tensors(setting, tensors), touch(tensors, framework)
    name = next(iter(tensors))
    array = handling(framework).array(tensors[name])
    turned = array.reshape(-1).view(np.uint64)[::-1].copy().view(array.dtype)
    tensors[name] = handling(framework).tensor(turned.reshape(array.shape))
    assert touch(tensors, framework) == total
    assert of_tensors(setting, tensors) != expected


def test_a_run_prints_a_table_and_writes_every_sample(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--scale", str(SCALE), "--repeat", "2"]
    command += ["--case", "open-small", "--case", "import-core", "--case", "save-small-numpy"]
    command += ["--json", str(tmp_path / "run.json"), "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    sides = {case["name"]: list(case["sides"]) for case in run["cases"]}
    assert sides.keys() == {"open-small", "save-small-numpy", "import-core"}
    assert sides["open-small"][:2] == ["ours", "safetensors 0.8.0"]
    assert sides["import-core"] == ["ours", "bare Python"]
    assert {"NumPy", "write"} <= set(sides["save-small-numpy"])
    for case in run["cases"]:
        assert case["name"] in done.stdout
        for name, series in case["sides"].items():
            assert len(series["samples"]) == 2
            assert name in done.stdout
    assert run["machine"]["packages"]["safetensors"]
    assert run["date"] in done.stdout
    # The temporary folder is gone.
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_what_a_framework_prints_is_not_taken_for_the_sample() -> None:
    program = (
        "import os; from benchmarks import worker\n"
        "worker.take_sample = lambda *_: {'written': os.write(1, b'noise')}\n"
        "worker.main(['open-small', 'ours', '.', '1'])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == '{"written": 5}\n'
    assert done.stderr == "noise"


def test_versions_of_frameworks_are_told_without_importing_them() -> None:
    program = (
        "import sys; from benchmarks.machine import describe_machine\n"
        "print(*describe_machine('.', ['jax', 'mlx'])['packages'])\n"
        "print(*{'jax', 'mlx', 'torch'}.intersection(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    packages, imported = done.stdout.splitlines()
    expected = "safetensors-core safetensors msgspec safetensors-jax jax jaxlib safetensors-mlx mlx"
    assert packages == expected
    assert not imported


def test_the_list_says_what_is_timed_on_all_sides() -> None:
    command = [sys.executable, "-m", "benchmarks", "--list", "--case", "owned-large-torch"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    first, *sides = done.stdout.splitlines()
    assert first == (
        "owned-large-torch: large, torch, warm file, target >= 3x, target ours <= 1.25x preadv"
    )
    assert [line.split("  ", 3)[2].strip() for line in sides] == [
        "ours",
        "safetensors 0.8.0",
        "safetensors 0.9.0rc1",
        "PyTorch",
        "preadv",
    ]
    assert sides[0].endswith('load_file(path, backend="pread")')


def test_a_name_that_no_case_has_is_an_error() -> None:
    command = [sys.executable, "-m", "benchmarks", "--case", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
