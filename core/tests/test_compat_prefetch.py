"""Loading in the background: `PrefetchLoader` and `safe_open.prefetch`."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, counting, file_bytes, take
from safetensors_core import Dtype, SafetensorError, plugins, register_framework
from safetensors_core.compat.handle import safe_open
from safetensors_core.compat.prefetch import PrefetchLoader, TensorMeta

# In the order of the file, which is not the order of the names.
TENSORS = {
    "z": counting(Dtype.F32, 4, 6),
    "a": counting(Dtype.F16, 3),
    "scalar": counting(Dtype.I64),
    "empty": counting(Dtype.U8, 0, 2),
}


@pytest.fixture(autouse=True)
def _raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_frameworks", {})
    register_framework(RawFramework())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of `TENSORS`."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TENSORS))
    return path


def constants(**values: int) -> dict[str, Callable[[], int]]:
    def returning(value: int) -> Callable[[], int]:
        return lambda: value

    return {name: returning(value) for name, value in values.items()}


def test_every_tensor_is_handed_out_once(path: Path) -> None:
    loader = safe_open(path, "raw").prefetch()
    assert dict(loader) == TENSORS
    assert list(loader) == []


def test_names_are_in_the_order_of_the_file_whatever_the_plan(path: Path) -> None:
    file = safe_open(path, "raw")
    assert file.prefetch().names() == list(TENSORS)
    assert file.prefetch({"a": None, "z": None}).names() == ["z", "a"]
    assert len(file.prefetch({"a": None, "z": None})) == 2


def test_a_plan_takes_rows_counted_from_the_end(path: Path) -> None:
    loader = safe_open(path, "raw").prefetch({"z": slice(-3, -1)})
    assert loader.take("z") == take(TENSORS["z"], slice(1, 3))


def test_a_plan_takes_whole_tensors_and_rows(path: Path) -> None:
    with safe_open(path, "raw").prefetch({"z": slice(1, 3), "scalar": None}) as loader:
        assert loader.take("z") == take(TENSORS["z"], slice(1, 3))
        assert dict(loader) == {"scalar": TENSORS["scalar"]}


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_any_number_of_threads_gives_the_same(path: Path, threads: int) -> None:
    with safe_open(path, "raw").prefetch(threads=threads) as loader:
        assert {name: loader.take(name) for name in reversed(TENSORS)} == TENSORS


def test_no_more_tensors_are_read_at_a_time_than_there_are_threads() -> None:
    both = threading.Barrier(2, timeout=60)
    lock = threading.Lock()
    running: list[str] = []
    most: list[int] = []

    def load() -> None:
        with lock:
            running.append("load")
            most.append(len(running))
        both.wait()  # holds until a second load runs
        with lock:
            running.pop()

    loads = {str(number): load for number in range(6)}
    assert len(list(PrefetchLoader(loads, threads=2))) == 6
    assert max(most) == 2


def test_a_tensor_cannot_be_taken_twice() -> None:
    loader = PrefetchLoader(constants(a=1, b=2), threads=1)
    assert loader.take("a") == 1
    with pytest.raises(SafetensorError, match="tensor a was taken before"):
        loader.take("a")
    assert list(loader) == [("b", 2)]
    with pytest.raises(SafetensorError, match="tensor b was taken before"):
        loader.take("b")


def test_a_tensor_outside_of_the_plan_is_named() -> None:
    loader = PrefetchLoader(constants(a=1), threads=1)
    with pytest.raises(SafetensorError, match="tensor c is not in the plan"):
        loader.take("c")


def test_what_is_taken_while_iterating_is_not_handed_out_again() -> None:
    loader = PrefetchLoader(constants(a=1, b=2, c=3), threads=1)
    seen: dict[str, int] = {}
    for name, value in loader:
        seen[name] = value
        for other in {"a", "b", "c"} - seen.keys():
            seen[other] = loader.take(other)
    assert seen == {"a": 1, "b": 2, "c": 3}


def test_two_threads_iterate_over_one_loader_and_share_its_tensors() -> None:
    names = [f"t{number}" for number in range(200)]
    loader = PrefetchLoader(constants(**dict.fromkeys(names, 1)), threads=4)
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(lambda _: [name for name, _ in loader], range(2)))
    assert sorted(halves[0] + halves[1]) == sorted(names)


def test_many_threads_take_one_tensor_and_one_gets_it() -> None:
    loader = PrefetchLoader(constants(a=1), threads=1)
    start = threading.Barrier(8, timeout=60)

    def take_it() -> bool:
        start.wait()
        try:
            return bool(loader.take("a") == 1)
        except SafetensorError:
            return False

    with ThreadPoolExecutor(8) as pool:
        taken = [future.result() for future in [pool.submit(take_it) for _ in range(8)]]
    assert taken.count(True) == 1


def test_closing_stops_what_has_not_begun_and_leaves_what_was_taken(path: Path) -> None:
    loader = safe_open(path, "raw").prefetch()
    kept = loader.take("z")
    loader.close()
    loader.close()
    assert kept == TENSORS["z"]
    assert list(loader) == []
    with pytest.raises(SafetensorError, match="taken before, or the loader is closed"):
        loader.take("a")


@pytest.mark.parametrize("end", [PrefetchLoader.close, lambda _: None], ids=["closed", "dropped"])
def test_loads_that_nobody_waits_for_are_not_begun(end: Callable[[PrefetchLoader], None]) -> None:
    first, goes_on = threading.Event(), threading.Event()
    begun: list[str] = []

    def load(name: str) -> None:
        begun.append(name)
        first.set()
        assert goes_on.wait(60)

    loader = PrefetchLoader({name: partial(load, name) for name in ("a", "b", "c")}, threads=1)
    assert first.wait(60)
    end(loader)
    del loader
    goes_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("safetensors-prefetch"):
            thread.join(60)
    assert begun == ["a"]


AT_THE_END = """
import threading
from safetensors_core.compat.prefetch import PrefetchLoader

begun = threading.Event()

def load():
    begun.set()
    threading.main_thread().join()
    print("loaded", flush=True)

def consume():
    threading.main_thread().join()
    print(loader.take("d"), flush=True)

loader = PrefetchLoader({"a": load, "b": load, "c": load, "d": lambda: "d"}, threads=1)
assert begun.wait(60)
"""


@pytest.mark.parametrize(
    ("consumer", "printed"),
    [("", ["loaded"]), ("threading.Thread(target=consume).start()", ["d", "loaded"])],
    ids=["nobody", "a thread"],
)
def test_a_process_ends_without_the_loads_that_nobody_waits_for(
    consumer: str, printed: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END + consumer], check=True, capture_output=True, text=True
    )
    assert sorted(done.stdout.split()) == printed
    assert done.stderr == ""


def test_an_error_of_a_reader_is_raised_where_its_tensor_is_taken() -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    loader = PrefetchLoader({"bad": fail, **constants(good=1)}, threads=1)
    assert loader.take("good") == 1
    with pytest.raises(OSError, match="Input/output error"):
        loader.take("bad")
    with pytest.raises(OSError, match="Input/output error"):
        list(PrefetchLoader({"bad": fail}, threads=1))


def test_tensors_arrive_after_the_file_was_closed_and_deleted(path: Path) -> None:
    with safe_open(path, "raw") as file:
        loader = file.prefetch()
    path.unlink()
    assert dict(loader) == TENSORS


def test_a_closed_file_prefetches_nothing(path: Path) -> None:
    with safe_open(path, "raw") as file:
        pass
    with pytest.raises(SafetensorError, match="File is closed"):
        file.prefetch()


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown name": ({"nothing": None}, SafetensorError, "does not contain tensor nothing"),
    "rows of a scalar": ({"scalar": slice(1)}, SafetensorError, "0-d tensor scalar"),
    "a step": ({"z": slice(0, 4, 2)}, SafetensorError, "step 1, got 2 for z"),
    "beyond the end": ({"z": slice(0, 5)}, SafetensorError, "5 for z is out of range for 4 rows"),
    "behind the end": ({"z": slice(5, None)}, SafetensorError, "start 5 for z is out of range"),
    "before the first": ({"z": slice(-5, None)}, SafetensorError, "start -5 for z is out of range"),
    "a bound of text": ({"z": slice("1")}, SafetensorError, "bounds for z must be integers"),
    "a name that is none": ({1: None}, SafetensorError, "keys must be tensor names"),
    "nothing": ({}, SafetensorError, "selects no tensors"),
    "an integer": ({"z": 1}, SafetensorError, "None or a slice"),
    "a list": (["z"], TypeError, "'list' object is not an instance of 'dict'"),
}


@pytest.mark.parametrize(("plan", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_plan_that_cannot_be_loaded_is_refused_before_anything_is_read(
    path: Path, plan: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        safe_open(path, "raw").prefetch(plan)


@pytest.mark.parametrize("threads", [0, -1])
def test_there_must_be_a_thread(path: Path, threads: int) -> None:
    with pytest.raises(SafetensorError, match=f"at least one thread, got {threads}"):
        safe_open(path, "raw").prefetch(threads=threads)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_loader_cannot_be_pickled_or_copied(copied: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="cannot pickle 'PrefetchLoader' object"):
        copied(PrefetchLoader({}, threads=1))


def test_the_entry_of_a_tensor_is_plain_data(path: Path) -> None:
    meta = safe_open(path, "raw").get_tensor_meta("a")
    assert meta == TensorMeta("F16", [3], (96, 102))
    assert pickle.loads(pickle.dumps(meta)) == meta
