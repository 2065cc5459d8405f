"""Work in the background ends with its block, and nobody waits for it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from queue import SimpleQueue
from typing import Any

import pytest

from safetensors_core.background import Workers


def test_results_come_in_the_order_of_the_arguments() -> None:
    with Workers(str, 4) as workers:
        assert list(workers.map(range(100))) == [str(number) for number in range(100)]


def test_so_many_run_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(3, timeout=30)

    def meet(_: int) -> int:
        return together.wait()

    with Workers(meet, 3) as workers:
        assert sorted(workers.map(range(3))) == [0, 1, 2]


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    with Workers(int, 1) as workers:
        failed, done = workers.submit("x"), workers.submit("7")
        assert done.result() == 7
        with pytest.raises(ValueError, match="'x'"):
            failed.result()


def test_what_has_not_begun_is_cancelled_at_the_end() -> None:
    running, released = threading.Event(), threading.Event()

    def wait(_: int) -> bool:
        running.set()
        return released.wait(30)

    with Workers(wait, 1) as workers:
        first, second = workers.submit(1), workers.submit(2)
        assert running.wait(30)
    assert second.cancelled()
    assert not first.done()
    released.set()
    assert first.result()


def test_the_end_does_not_wait_for_work_that_a_thread_took_first() -> None:
    class Raced(SimpleQueue[Any]):
        def empty(self) -> bool:  # so it was, before a thread took the last one
            return False

    workers = Workers(str, 1)
    workers._waiting = Raced()
    with workers:
        assert workers.submit(1).result() == "1"


def test_an_error_goes_away_with_its_last_user() -> None:
    class OddError(Exception):
        pass

    def fail(_: None) -> None:
        raise OddError

    with Workers(fail, 1) as workers:
        errors = [workers.submit(None).exception(30)]
    [thread] = workers._threads
    thread.join(30)
    kept = weakref.ref(errors[0])
    gc.disable()
    try:
        errors.clear()
        assert kept() is None
    finally:
        gc.enable()


def test_the_process_ends_although_a_thread_is_at_work() -> None:
    program = """
from threading import Event
from safetensors_core.background import Workers
with Workers(lambda _: Event().wait(), 1) as workers:
    workers.submit(None)
print("over")
"""
    python = [sys.executable, "-c", program]
    done = subprocess.run(python, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "over\n"


def test_where_no_thread_can_be_started_the_caller_does_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Workers(len, 2) as workers:
        assert list(workers.map(["a", "bcd"])) == [1, 3]
