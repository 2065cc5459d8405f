"""Loading to devices other than the CPU, for which the CPU stands in: window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import safetensors_numpy
from safetensors_core import safe_open
from safetensors_core.sources import FileSource
from safetensors_core.transfer import windowed
from safetensors_jax import framework, load_file, save, staging
from safetensors_jax.framework import JaxFramework

ARRAYS: dict[str, Any] = {
    "a": np.arange(3000, dtype=np.float32).reshape(30, 100),
    "b": np.arange(7, dtype=np.int8),
    "c": np.array(2**40 + 1),
    "d": np.zeros((0, 3), np.float16),
    "e": np.arange(5000, dtype=np.uint16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of several windows."""
    safetensors_numpy.save_file(ARRAYS, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.fixture(autouse=True)
def _other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU as a device that it is not, and windows of a kilobyte."""
    monkeypatch.setattr(framework, "_on_cpu", lambda _: False)
    monkeypatch.setattr(windowed, "WINDOW", 1000)


@pytest.mark.filterwarnings("ignore:these tensors have 64 bits")
@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
@pytest.mark.parametrize("device", [None, "cpu:0", {"a": "cpu:0"}])
def test_arrays_come_in_windows_bit_for_bit(path: Path, backend: Any, device: Any) -> None:
    loaded = load_file(path, device, backend=backend)
    expected = safetensors_numpy.load_file(path)
    assert list(loaded) == list(expected)
    for name, array in loaded.items():
        assert array.dtype == expected[name].dtype
        assert np.array_equal(array, expected[name])


def test_one_window_is_read_ahead_of_what_is_copied(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fetch, over = FileSource.fetch, framework._over_buffer

    def noted_fetch(self: FileSource, infos: Any, alignment: int = 1) -> Any:
        events.append(f"read {''.join(infos)}")
        return fetch(self, infos, alignment)

    def noted_over(buffer: memoryview, infos: Any, target: Any) -> Any:
        events.append(f"copy {''.join(infos)}")
        return over(buffer, infos, target)

    monkeypatch.setattr(FileSource, "fetch", noted_fetch)
    monkeypatch.setattr(framework, "_over_buffer", noted_over)
    with safe_open(path, "jax", backend="pread") as file:
        file.get_tensors(["a", "b", "e"])
    reads = [event for event in events if event.startswith("read")]
    copies = [event for event in events if event.startswith("copy")]
    assert sorted(event[5:] for event in reads) == sorted(event[5:] for event in copies)
    assert len(copies) == 3
    assert events.index(f"read{copies[2][4:]}") > events.index(copies[0])  # one ahead, not all


@pytest.mark.parametrize(
    ("device", "maps"), [("cpu", True), ("cpu:0", False), ({"a": "cpu:0"}, False), ("tpu:9", True)]
)
def test_files_for_other_devices_are_not_mapped(device: Any, maps: bool) -> None:
    assert JaxFramework().prefers_map(device) is maps


def test_one_array_is_read_without_a_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed, "ReadAhead", None)
    with safe_open(path, "jax", jax.devices()[0], backend="pread") as file:
        assert np.array_equal(file.get_tensor("b"), ARRAYS["b"])


def test_one_array_is_on_its_way_while_the_one_before_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays = {name: jax.numpy.arange(size) for name, size in [("a", 5), ("b", 7), ("c", 2000)]}
    expected = save(arrays)
    begun: list[int] = []

    def bring(array: jax.Array) -> jax.Array:
        begun.append(array.size)
        return array

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert save(arrays) == expected
    monkeypatch.setattr(staging, "brought_to_host", bring)
    buffers = JaxFramework().to_buffers(iter(arrays.values()))
    sizes = [(len(bytes(buffer)), list(begun)) for buffer in buffers]
    item = arrays["a"].dtype.itemsize
    assert sizes == [
        (5 * item, [5, 7]),
        (7 * item, [5, 7, 2000]),
        (2000 * item, [5, 7, 2000]),
    ]


ALL = slice(None)
INDEXES: dict[str, Any] = {
    "all": (ALL, ALL),
    "backwards": (ALL, slice(None, None, -1)),
    "half of the columns": (ALL, slice(0, 4)),
    "every other column": (ALL, slice(1, 8, 2)),
    "a new axis": (None, ALL, ALL),
    "an axis that is left out": (slice(0, 4),),
    "less than half": (ALL, slice(0, 3)),
    "one row": (3,),
    "a list": (ALL, [0, 7, 1]),
}


@pytest.mark.filterwarnings("ignore:these tensors have 64 bits")
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16", "float8_e4m3fn", "bool"])
@pytest.mark.parametrize("case", INDEXES)
def test_slices_of_large_arrays_are_taken_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, dtype: str, traced: bool
) -> None:
    saved = (np.arange(64).reshape(8, 8) - 20).astype(jax.numpy.dtype(dtype))
    safetensors_numpy.save_file({"w": saved}, tmp_path / "w.safetensors")
    taken: list[Any] = []
    over = framework._over_buffer

    def noted(buffer: memoryview, infos: Any, target: Any) -> Any:
        taken.append(target)
        return over(buffer, infos, target)

    monkeypatch.setattr(framework, "_over_buffer", noted)
    monkeypatch.setattr(framework, "_COMPILED", 1)
    with safe_open(tmp_path / "w.safetensors", "jax", "cpu:0") as file:

        def sliced(_: Any) -> jax.Array:
            part: jax.Array = file.get_slice("w")[INDEXES[case]]
            return part

        if traced:
            parts: list[jax.Array] = []
            jax.jit(lambda x: parts.append(sliced(x)))(0)
            [part] = parts
        else:
            part = sliced(None)
    assert len(taken) == (case not in {"less than half", "one row", "a list"})
    assert isinstance(part, jax.Array)
    assert part.committed
    assert part.dtype == saved.dtype
    assert np.asarray(part).tobytes() == saved[INDEXES[case]].tobytes()
    assert part.shape == saved[INDEXES[case]].shape


def test_slices_of_small_arrays_are_taken_on_the_host(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework, "_over_buffer", None)
    with safe_open(path, "jax", "cpu:0") as file:
        assert np.array_equal(file.get_slice("a")[:, ::-1], ARRAYS["a"][:, ::-1])


def test_slices_for_which_the_device_has_no_room_are_taken_on_the_host(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Any] = []

    def refuse(*arguments: Any) -> Any:
        refused.append(arguments)
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(framework, "_COMPILED", 1)
    monkeypatch.setattr(framework, "_over_buffer", refuse)
    with safe_open(path, "jax", "cpu:0") as file:
        assert np.array_equal(file.get_slice("a")[:, ::-1], ARRAYS["a"][:, ::-1])
    assert len(refused) == 1
