"""One sample of one side of a case, taken in the process that calls `take_sample`.

Run as a program, it takes one and prints it: a fresh process has an empty heap, its first
threads and its first faults before it, as a program that loads its model has.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import sys
import time
from typing import Any

from benchmarks import page_cache
from benchmarks.cases import CASES, Case
from benchmarks.checkpoints import nbytes
from benchmarks.memory import measure_peak
from benchmarks.setting import Setting
from benchmarks.sides import Side, side_called
from benchmarks.values import touch

__all__ = ["WARM_UP", "main", "take_sample"]

WARM_UP = 1 / 16  # of a checkpoint: enough that what starts threads for a model does so


def take_sample(
    case: Case, side: Side, folder: str, scale: float, device: str | None = None
) -> dict[str, Any]:
    """Do a case's work once.

    Args:
        case: What to do.
        side: Who does it.
        folder: Holds the case's file in the side's format, at `scale` and at `WARM_UP` times it.
        scale: How much of the checkpoint.
        device: Another device than the case's, for tests.

    Returns:
        ``"measured"``, seconds or bytes; ``"value"``, what the other sides must find too, or None
        for a limit; ``"cached"``, the part of the file in the page cache before, or None.
    """
    checkpoint = case.checkpoint or "small"
    settings = [
        Setting(case.framework, checkpoint, part, folder, side.kind, device or case.work.device)
        for part in (scale * WARM_UP, scale)
    ]
    # Imports, plugins and code are one thing, files and tensors another: this is the latter.
    _work(case, side, settings[0])()
    _remove(settings[0].target)
    work = _work(case, side, settings[1])
    cached = _set_cache(case, settings[1].path)
    if case.checkpoint:
        _have_memory(nbytes(case.checkpoint, scale))
    gc.collect()
    for _ in range(case.work.before):
        work()
    if case.work.metric == "seconds":
        start = time.perf_counter()
        result = work()
        measured: float = time.perf_counter() - start
    else:
        result, peak = measure_peak(work)
        measured = peak[case.work.metric]
    value = None
    if side.role != "limit":
        find_value = side.calls[case.work.task].value or case.work.value
        value = find_value(settings[1], result)
    _remove(settings[1].target)
    return {"measured": measured, "value": value, "cached": cached}


def _work(case: Case, side: Side, setting: Setting) -> Any:
    """What is timed: the call of a side and, where the case says so, reading its result."""
    action = side.calls[case.work.task].prepare(setting)
    if not case.work.touch or side.role == "limit":
        return action

    def load_and_touch() -> Any:
        tensors = action()
        touch(tensors, setting.framework)
        return tensors

    return load_and_touch


def _set_cache(case: Case, path: str) -> float | None:
    if case.cache == "none":
        return None
    if case.cache == "cold":
        page_cache.drop(path)
    else:
        page_cache.fill(path)
    return page_cache.resident(path)


def _have_memory(size: int) -> None:
    """Take and free twice the memory that the work needs.

    The host of a virtual machine provides memory page by page when it is first touched, and
    takes back what the machine has freed: that can cost ten times what the work itself does.
    """
    with mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with contextlib.suppress(AttributeError, OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        memory[::4096] = bytes(len(range(0, 2 * size, 4096)))


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def main(arguments: list[str]) -> None:
    """Take the sample that the arguments ask for and print it as JSON.

    Args:
        arguments: Name of the case, name of the side, folder, scale.
    """
    name, side, folder, scale = arguments
    case = next(case for case in CASES if case.name == name)
    # What frameworks print is not the sample: from here on it goes where errors go.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sample = take_sample(case, side_called(side), folder, float(scale))
    print(json.dumps(sample), file=output)


if __name__ == "__main__":
    main(sys.argv[1:])
