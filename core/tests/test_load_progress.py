"""Who loads a large file can see how far it is, and stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import counting, file_bytes
from core.tests.sharded import NBYTES, RAW, TENSORS, checkpoint
from core.tests.test_load_dtype import CASTING
from safetensors_core import (
    Dtype,
    InvalidInputError,
    load_file,
    load_into,
    loading,
    register_framework,
    safe_open,
    save_checkpoint,
    save_file,
)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "WINDOW", 16)


class Reports(list[tuple[int, int]]):
    """What was reported, each from the thread that loads."""

    def __call__(self, done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.append((done, total))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("dtype", [None, "BF16"])
def test_reports_rise_to_the_bytes_of_all(tmp_path: Path, backend: Any, dtype: str | None) -> None:
    reports = Reports()
    folder = checkpoint(tmp_path)
    loaded = load_file(folder, CASTING, backend=backend, dtype=dtype, progress=reports)
    assert loaded == load_file(folder, CASTING, dtype=dtype)
    assert len(reports) > 3
    assert reports == sorted(set(reports))
    assert reports[-1] == (NBYTES, NBYTES)


def test_the_bytes_of_all_are_those_that_were_asked_for(tmp_path: Path) -> None:
    reports = Reports()
    load_file(checkpoint(tmp_path), RAW, keys=["wte", "a"], progress=reports)
    assert reports == [(96, 97), (97, 97)]
    with safe_open(tmp_path / "model", RAW) as file:
        file.get_tensors(["wte"], progress=reports)
    assert reports[2:] == [(96, 96)]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_an_error_of_the_report_ends_the_loading(tmp_path: Path, backend: Any) -> None:
    reports: list[int] = []

    def stop(done: int, _total: int) -> None:
        reports.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_file(checkpoint(tmp_path), RAW, backend=backend, progress=stop)
    assert len(reports) == 1


def test_tensors_are_the_same_with_and_without_a_report(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TENSORS))
    assert load_file(path, RAW, progress=Reports()) == load_file(path, RAW)


def test_where_there_is_nothing_to_load_nothing_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({"w": counting(Dtype.F32, 0)}))
    reports = Reports()
    assert list(load_file(path, RAW, progress=reports)) == ["w"]
    assert reports == []


@pytest.mark.parametrize("progress", [True, 5, "tqdm"])
def test_what_cannot_be_called_is_refused_before_anything_is_done(
    tmp_path: Path, progress: Any
) -> None:
    folder = checkpoint(tmp_path)
    register_framework(RAW)
    tensors = load_file(folder, RAW)
    calls: list[Callable[[], object]] = [
        lambda: load_file(folder, RAW, progress=progress),
        lambda: load_into(tensors, folder, progress=progress),
        lambda: save_file(TENSORS, tmp_path / "new", progress=progress),
        lambda: save_checkpoint(TENSORS, tmp_path / "new", progress=progress),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError, match="progress must be a function or None, got"):
            call()
    assert not (tmp_path / "new").exists()
