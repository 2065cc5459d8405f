"""Threads that share the work of one call."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from safetensors_core.errors import InvalidInputError

__all__ = ["share_work", "worker_count"]

T = TypeVar("T")

_MOST = 64


def worker_count() -> int:
    """How many threads read, copy or write at the same time.

    The environment variable ``SAFETENSORS_THREADS`` sets it. Without that, it is one for each core
    that the process may use, from 2 to 8: a single core waits for a disk with two threads, too,
    and memory is not copied any faster by more than eight.

    Returns:
        The number, from 1 to 64.

    Raises:
        InvalidInputError: The variable is no such number.

    Example:
        >>> 1 <= worker_count() <= 64
        True
    """
    text = os.environ.get("SAFETENSORS_THREADS")
    if text:
        if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MOST:
            return int(text)
        raise InvalidInputError(
            f"SAFETENSORS_THREADS is {text!r}: expected a whole number from 1 to {_MOST}"
        )
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(2, min(8, cores))


def share_work(work: Callable[[T], object], jobs: Iterable[T]) -> None:
    """Do several jobs at the same time, with this thread and up to `worker_count` - 1 more.

    When it returns or raises, no job runs any more, so that memory that jobs fill belongs to the
    caller again. It works wherever Python code runs, also in a thread that outlives the main one
    and in a forked process: where no thread can be started, this one does everything.

    Args:
        work: What to do with a job. It shall let go of the interpreter most of the time.
        jobs: The jobs, begun in their order.

    Raises:
        BaseException: What the first job that failed raised; no job is begun after that.

    Example:
        >>> done = []
        >>> share_work(done.append, [1, 2, 3])
        >>> sorted(done)
        [1, 2, 3]
    """
    line = _Line(work, jobs)
    threads: list[threading.Thread] = []
    try:
        for _ in range(min(worker_count(), len(line.waiting)) - 1):
            thread = threading.Thread(target=line.work, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more, or the interpreter is about to end
                break
            threads.append(thread)
        line.work()
    finally:
        line.waiting.clear()  # an interrupt came here instead of in a job
        _join(threads, line.errors)
    if line.errors:
        del line.errors[1:]  # an error keeps this list, which must keep none
        raise line.errors.pop()


def _join(threads: list[threading.Thread], errors: list[BaseException]) -> None:
    """Wait for all threads. An interrupt is raised after that: they fill memory of the caller."""
    while threads:
        try:
            threads[-1].join()
            threads.pop()
        except BaseException as error:  # noqa: BLE001, PERF203  # raised to the caller
            errors.append(error)


class _Line(Generic[T]):
    """Jobs that wait for the next thread that is free."""

    def __init__(self, work: Callable[[T], object], jobs: Iterable[T]) -> None:
        self._work = work
        self.waiting = deque(jobs)
        self.errors: list[BaseException] = []

    def work(self) -> None:
        """Do jobs until there are none, or one has failed."""
        while self.waiting:
            try:
                job = self.waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                self._work(job)
            except BaseException as error:  # noqa: BLE001  # raised to the caller
                self.waiting.clear()
                self.errors.append(error)
