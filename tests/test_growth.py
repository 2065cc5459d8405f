"""Nothing costs more for each tensor of a large file than for each of a small one.

Not time is measured, but what does not vary: how many instructions Python executes, and how many
bytes are allocated at the peak. For each, the count of tensors is doubled twice. If a cost is
linear, the second doubling adds twice what the first has added; if it is quadratic, four times.
What goes through a list inside of one instruction is not seen here: `python -m benchmarks scale`
sees it.
"""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from safetensors_core import load, load_file, read_header, safe_open, save, save_file
from safetensors_core.checkpoint.comparison import compare_checkpoints
from safetensors_core.checkpoint.saving import save_checkpoint
from safetensors_core.checkpoint.splitting import merge_checkpoint, split_checkpoint
from safetensors_core.checkpoint.verification import verify_checkpoint
from safetensors_core.cli import main as command

# Powers of two: a table that grows by doubling is as full at each of them.
COUNTS = (256, 512, 1024)
SHARDS = (16, 32, 64)

Call = Callable[[], object]


def tensors(count: int) -> dict[str, Any]:
    return {f"layer.{i:04}": np.full(2, i, np.float32) for i in range(count)}


def file_of(folder: Path, count: int) -> Path:
    path = folder / f"{count}.safetensors"
    if not path.exists():
        save_file(tensors(count), path, fsync=False)
    return path


def shards_of(folder: Path, count: int) -> Path:
    """A checkpoint with so many files, of eight tensors each."""
    path = folder / f"shards-{count}"
    if not path.exists():
        path.mkdir()
        save_checkpoint(tensors(8 * count), path, max_shard_size=64, fsync=False)
        assert len(list(path.glob("*.safetensors"))) == count
    return path


def by_name(backend: Any, path: Path) -> object:
    with safe_open(path, backend=backend) as file:
        return file.get_tensors(file.keys()[::-1])


def one_by_one(backend: Any, path: Path) -> object:
    with safe_open(path, backend=backend) as file:
        return [file.get_tensor(name) for name in list(file)]


def in_windows(backend: Any, path: Path) -> object:
    with safe_open(path, backend=backend) as file:
        return [name for name, _ in file.iter_tensors(window=512)]


READING: dict[str, Callable[[Path], object]] = {
    "read_header": read_header,
    "load_file": load_file,
    "load_file, pread": partial(load_file, backend="pread"),
    "load_file, a prefix": partial(load_file, keys="layer.*"),
    "load_file, names": lambda path: load_file(path, keys=list(read_header(path).tensors)),
    "get_tensors, mmap": partial(by_name, "mmap"),
    "get_tensors, pread": partial(by_name, "pread"),
    "get_tensor, mmap": partial(one_by_one, "mmap"),
    "get_tensor, pread": partial(one_by_one, "pread"),
    "iter_tensors, mmap": partial(in_windows, "mmap"),
    "iter_tensors, pread": partial(in_windows, "pread"),
    "inspect": lambda path: command(["inspect", str(path)]),
    "verify": verify_checkpoint,
    "diff": lambda path: compare_checkpoints(path, path),
}
SAVING: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "save": lambda saved, _target: save(saved),
    "save, load": lambda saved, _target: load(save(saved)),
    "save_file": partial(save_file, fsync=False),
}
REWRITING: dict[str, Callable[[Path, Path], object]] = {
    "save_checkpoint": lambda path, target: save_checkpoint(
        load_file(path), target, max_shard_size=64, fsync=False
    ),
    "split": lambda path, target: split_checkpoint(path, target, 64, overwrite=True),
    "merge": lambda path, target: merge_checkpoint(
        path, target / "one.safetensors", overwrite=True
    ),
}


def steps(work: Call) -> int:
    """How many instructions Python executes, in all threads."""
    counts: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            thread = threading.get_ident()
            counts[thread] = counts.get(thread, 0) + 1
        return trace

    before = sys.gettrace(), threading.gettrace()  # those of a measurement of coverage
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])
    return sum(counts.values())


def peak(work: Call) -> int:
    """Bytes that are allocated at the peak."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Instructions are exact but for threads that wait; tables of names are never as full as the next.
MOST: dict[Callable[[Call], int], float] = {steps: 2.1, peak: 2.5}


def grows_linearly(cost: Callable[[Call], int], works: Sequence[Call]) -> bool:
    for work in works:
        work()  # what is made once is made, and what a save replaces is there
    cost(works[0])  # Python prepares its code when it is watched for the first time
    least, middle, most = map(cost, works)
    assert least < middle < most
    return most - middle < MOST[cost] * (middle - least)


@pytest.mark.parametrize("cost", MOST)
@pytest.mark.parametrize("work", READING)
def test_reading_costs_no_more_for_each_tensor_of_a_large_file(
    work: str, cost: Callable[[Call], int], tmp_path: Path
) -> None:
    paths = [file_of(tmp_path, count) for count in COUNTS]
    assert grows_linearly(cost, [partial(READING[work], path) for path in paths])


@pytest.mark.parametrize("cost", MOST)
@pytest.mark.parametrize("work", SAVING)
def test_saving_costs_no_more_for_each_of_many_tensors(
    work: str, cost: Callable[[Call], int], tmp_path: Path
) -> None:
    target = tmp_path / "saved.safetensors"
    assert grows_linearly(cost, [partial(SAVING[work], tensors(n), target) for n in COUNTS])


@pytest.mark.parametrize("work", READING)
def test_reading_costs_no_more_for_each_of_many_files(work: str, tmp_path: Path) -> None:
    paths = [shards_of(tmp_path, count) for count in SHARDS]
    assert grows_linearly(steps, [partial(READING[work], path) for path in paths])


@pytest.mark.parametrize("work", REWRITING)
def test_writing_costs_no_more_for_each_of_many_files(work: str, tmp_path: Path) -> None:
    works = []
    for count in SHARDS:
        target = tmp_path / f"target-{count}"
        target.mkdir()
        works.append(partial(REWRITING[work], shards_of(tmp_path, count), target))
    assert grows_linearly(steps, works)


@pytest.mark.parametrize("cost", MOST)
def test_a_cost_that_grows_faster_is_noticed(cost: Callable[[Call], int]) -> None:
    def quadratic(count: int) -> Call:
        return lambda: [[abs(i * j) for i in range(count)] for j in range(count)]

    assert not grows_linearly(cost, [quadratic(count) for count in (16, 32, 64)])
