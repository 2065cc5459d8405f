"""Work that threads share: how many there are, what an error does, and where no thread starts."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

from safetensors_core import InvalidInputError
from safetensors_core.threads import share_work, worker_count


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETENSORS_THREADS", "4")


def test_without_a_setting_there_are_2_to_8_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFETENSORS_THREADS")
    assert 2 <= worker_count() <= 8
    monkeypatch.setenv("SAFETENSORS_THREADS", "")
    assert 2 <= worker_count() <= 8


@pytest.mark.parametrize("number", [1, 3, 64])
def test_the_setting_is_the_number_of_threads(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETENSORS_THREADS", str(number))
    assert worker_count() == number


@pytest.mark.parametrize("text", ["0", "65", "-1", "2.0", "two", " ", "²", "9" * 5000])
def test_a_setting_that_is_no_number_from_1_to_64_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFETENSORS_THREADS", text)
    with pytest.raises(InvalidInputError, match=r"SAFETENSORS_THREADS is .* from 1 to 64"):
        worker_count()


def test_as_many_threads_as_are_set_work_at_the_same_time() -> None:
    together = threading.Barrier(4)
    share_work(lambda _: together.wait(30), range(8))
    assert not together.broken


def test_every_job_is_done_once_and_the_caller_works_too() -> None:
    done: list[int] = []
    workers: set[int] = set()

    def work(job: int) -> None:
        done.append(job)
        workers.add(threading.get_ident())

    share_work(work, range(1000))
    assert sorted(done) == list(range(1000))
    share_work(work, [])
    share_work(work, [7])
    assert done[1000:] == [7]
    assert threading.get_ident() in workers


@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt(), SystemExit()])
def test_an_error_reaches_the_caller_after_the_last_job_and_no_further_one_begins(
    error: BaseException,
) -> None:
    begun: list[int] = []
    ended: list[int] = []
    failed = threading.Event()

    def work(job: int) -> None:
        begun.append(job)
        if job == 1:
            failed.set()
            raise error
        assert failed.wait(30)
        ended.append(job)

    with pytest.raises(type(error)) as caught:
        share_work(work, range(1000))
    assert caught.value is error
    assert sorted(begun) == sorted([*ended, 1])
    assert len(begun) < 1000


def test_of_two_errors_the_first_reaches_the_caller_and_none_is_kept() -> None:
    class Held:
        """What the frame of an error refers to."""

    both = threading.Barrier(2)
    held: list[weakref.ref[Held]] = []
    errors: list[str] = []

    def work(_: int) -> None:
        mine = Held()
        held.append(weakref.ref(mine))
        both.wait(30)
        if threading.current_thread() is threading.main_thread():
            while other.is_alive():
                other.join(30)
        raise OSError(threading.current_thread().name)

    other: threading.Thread
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        nonlocal other
        other = thread
        start(thread)

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(threading.Thread, "start", note)
            try:
                share_work(work, range(2))
            except OSError as error:
                errors.append(str(error))
        assert errors == [other.name]
        assert [found() for found in held] == [None, None]
    finally:
        gc.enable()


def test_an_interrupt_while_others_still_work_is_raised_once_they_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, interrupted = threading.Event(), threading.Event()
    waited_for: list[threading.Thread] = []
    join = threading.Thread.join

    def interrupt_once(thread: threading.Thread) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        join(thread)
        waited_for.append(thread)

    def work(_: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(30)
        else:
            begun.set()
            assert interrupted.wait(30)

    monkeypatch.setattr(threading.Thread, "join", interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        share_work(work, range(2))
    assert len(waited_for) == 1


def test_where_no_thread_can_be_started_the_caller_does_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    workers: list[int] = []
    share_work(lambda _: workers.append(threading.get_ident()), range(10))
    assert workers == [threading.get_ident()] * 10


def test_a_thread_that_outlives_the_main_one_and_a_forked_process_share_work_too() -> None:
    program = """
import os, threading
from safetensors_core.threads import share_work

def both(ends):
    together = threading.Barrier(2)
    share_work(lambda _: together.wait(30), range(2))
    print(ends, flush=True)

def later():
    threading.main_thread().join()
    both("after the main thread")

both("main thread")
if os.fork() == 0:
    both("forked")
    os._exit(0)
os.wait()
threading.Thread(target=later).start()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout.split("\n"), done.stderr) == (
        ["main thread", "forked", "after the main thread", ""],
        "",
    )
