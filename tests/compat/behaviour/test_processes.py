"""Handles in threads and processes, and what may be done with the objects themselves."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import pydoc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors import SafetensorError, TensorSpec, safe_open
from safetensors.numpy import load, load_file, save, save_file

PROGRAMS = Path(__file__).with_name("programs")
TENSORS = {str(i): np.full((100, 10), i, np.float32) for i in range(20)}
SUMS = {name: 1000.0 * int(name) for name in TENSORS}
SIDES = [(framework, backend) for framework in ("np", "pt") for backend in ("mmap", "pread")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors", {"format": "np"})
    return tmp_path / "x.safetensors"


def run(program: str, *arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", PROGRAMS / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("framework", "backend"), SIDES)
def test_many_threads_read_one_handle(path: Path, framework: str, backend: str) -> None:
    file = safe_open(path, framework, backend=backend)
    names = list(TENSORS) * 10

    def total(name: str) -> float:
        whole = float(file.get_tensor(name).sum())
        half = float(file.get_slice(name)[:50].sum())
        assert 2 * half == whole
        assert file.keys() == sorted(TENSORS)
        return whole

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(total, names)) == [SUMS[name] for name in names]


def test_many_threads_open_and_load_one_file(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_file(path), range(32)))
    assert all(
        {name: float(array.sum()) for name, array in tensors.items()} == SUMS for tensors in found
    )


def test_many_threads_save_their_own_files(tmp_path: Path) -> None:
    def write(i: int) -> dict[str, Any]:
        save_file({"a": np.full(1000, i)}, tmp_path / f"{i}.safetensors")
        return load_file(tmp_path / f"{i}.safetensors")

    with ThreadPoolExecutor(8) as pool:
        assert [int(found["a"][-1]) for found in pool.map(write, range(32))] == list(range(32))
    assert len(os.listdir(tmp_path)) == 32


def test_threads_that_save_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(10_000)}, path)
    stop = threading.Event()
    seen: list[bool] = []

    def read() -> None:
        while not stop.is_set():
            found = load_file(path)["a"]
            seen.append(bool((found == found[0]).all()))

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: save_file({"a": np.full(10_000, float(i))}, path), range(40)))
    stop.set()
    reader.join()
    assert all(seen)
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("framework", ["np", "pt"])
def test_a_forked_worker_reads_the_handle_of_its_parent(path: Path, framework: str) -> None:
    found = run("workers.py", "fork", path, framework)
    assert found["sums"] == SUMS
    assert found["after"] == SUMS["1"]
    assert found["workers"] == [found["parent"]] == [safetensors.__file__]


def test_a_spawned_worker_finds_the_same_implementation(path: Path) -> None:
    found = run("workers.py", "spawn", path, "np")
    assert found["sums"] == SUMS
    assert found["workers"] == [found["parent"]] == [safetensors.__file__]


@pytest.mark.parametrize("when", ["lazy", "open"])
def test_a_data_loader_reads_rows_in_workers(tmp_path: Path, when: str) -> None:
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    batches = run("data_loader.py", tmp_path / "rows.safetensors", when)
    assert [row for batch in batches for row in batch] == rows.tolist()


def test_a_program_started_by_a_test_finds_the_same_implementation() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import safetensors; print(safetensors.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == safetensors.__file__


def test_objects_that_hold_a_file_or_memory_cannot_be_pickled_or_copied(path: Path) -> None:
    file = safe_open(path, "np")
    spec = TensorSpec(dtype="uint8", shape=[0], data_ptr=0, data_len=0)
    for held in (file, file.get_slice("1"), spec):
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"^cannot pickle '.*' object$"):
                duplicate(held)


def test_errors_can_be_pickled(path: Path) -> None:
    with pytest.raises(SafetensorError) as caught:
        safe_open(path, "np").get_tensor("nope")
    found = pickle.loads(pickle.dumps(caught.value))
    assert type(found) is type(caught.value)
    assert str(found) == str(caught.value) == "File does not contain tensor nope"
    plain = pickle.loads(pickle.dumps(SafetensorError("text")))
    assert (type(plain), plain.args) == (SafetensorError, ("text",))
    with pytest.raises(FileNotFoundError) as missing:
        safe_open("nope", "np")
    assert str(pickle.loads(pickle.dumps(missing.value))) == "No such file or directory: nope"


def test_arrays_that_were_loaded_can_be_pickled(path: Path) -> None:
    found = pickle.loads(pickle.dumps(load_file(path)))
    assert {name: float(array.sum()) for name, array in found.items()} == SUMS


def test_errors_are_exceptions_of_one_class() -> None:
    assert issubclass(SafetensorError, Exception)
    assert not issubclass(SafetensorError, (ValueError, OSError, RuntimeError))
    assert SafetensorError.__name__ == "SafetensorError"
    assert repr(SafetensorError("x")) == "SafetensorError('x')"
    assert str(SafetensorError("x")) == "x"


def test_the_objects_know_their_classes(path: Path) -> None:
    file = safe_open(path, "np")
    assert isinstance(file, safe_open)
    with file as entered:
        assert isinstance(entered, safe_open)
    assert type(file).__name__ == "safe_open"
    assert "safe_open object" in repr(file)
    part = safe_open(path, "np").get_slice("1")
    assert type(part).__name__ == "PySafeSlice"
    assert isinstance(safetensors, type(sys))
    spec = TensorSpec(dtype="uint8", shape=[0], data_ptr=0, data_len=0)
    assert isinstance(spec, TensorSpec)


def test_a_handle_is_no_container(path: Path) -> None:
    file: Any = safe_open(path, "np")
    for use in (len, iter, lambda f: "1" in f, lambda f: f["1"]):
        with pytest.raises(TypeError):
            use(file)
    with pytest.raises(AttributeError):
        file.no_such_method()


def test_everything_is_documented() -> None:
    for name in ("safe_open", "serialize", "serialize_file", "deserialize", "TensorSpec"):
        assert getattr(safetensors, name).__doc__
        assert name in pydoc.render_doc(getattr(safetensors, name), renderer=pydoc.TextDoc())
    output = io.StringIO()
    pydoc.Helper(output=output).help(safe_open)
    for method in ("keys", "offset_keys", "metadata", "get_tensor", "get_tensors", "get_slice"):
        assert method in output.getvalue()


def test_the_version_is_one_that_programs_compare() -> None:
    numbers = safetensors.__version__.split(".")
    assert len(numbers) == 3
    assert (int(numbers[0]), int(numbers[1])) >= (0, 8)
    assert safetensors.__version__ >= "0.4.3"


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert version("safetensors") == safetensors.__version__


def test_an_interrupted_block_closes_the_file(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), safe_open(path, "np") as file:
        raise KeyboardInterrupt
    with pytest.raises(SafetensorError, match=r"^File is closed$"):
        file.keys()


def test_bytes_may_be_loaded_by_many_threads() -> None:
    data = save(TENSORS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: float(load(data)["7"].sum()), range(64)))
    assert found == [SUMS["7"]] * 64
