"""Loading from any source, in parts, by any thread; and what is refused before it is read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from safetensors_core import ByteSource, InvalidInputError, TensorInfo, get_framework, safe_open
from safetensors_mlx import framework as plugin
from safetensors_mlx import load, load_file, save, save_file

COUNT = 1 << 20
BACKENDS = ["mmap", "pread"]


class Stored(ByteSource):
    """Bytes of another storage system, which may fail after some of them."""

    def __init__(self, data: bytes, failure: BaseException | None = None) -> None:
        self.location, self.data, self.size = "acme://model", data, len(data)
        self.failure = failure
        self.fetched: list[tuple[int, int]] = []

    def fetch(
        self, infos: Mapping[str, TensorInfo], alignment: int = 1
    ) -> tuple[memoryview, Mapping[str, TensorInfo]]:
        buffer, placed = super().fetch(infos, alignment)
        self.fetched.append((len(infos), len(buffer)))
        return buffer, placed

    def read_into(self, offset: int, view: memoryview) -> None:
        if self.failure is not None and offset + len(view) > 1024:
            raise self.failure
        view[:] = self.data[offset : offset + len(view)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large arrays between small ones; the first one is large enough to be read in parallel."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    arrays = {f"small.{i}": mx.full((3,), i) for i in range(20)}
    arrays |= {f"large.{i}": mx.arange(COUNT + i, dtype=mx.uint32) + i for i in range(4)}
    arrays["huge"] = mx.arange(5 * COUNT, dtype=mx.float32).reshape(5, COUNT)
    save_file(arrays, path)
    return path


def assert_whole(loaded: dict[str, Any]) -> None:
    assert len(loaded) == 25
    for i in range(20):
        assert loaded[f"small.{i}"].tolist() == [i, i, i]
    for i in range(4):
        # Not with an operation: MLX is to evaluate nothing any more.
        array = np.asarray(memoryview(loaded[f"large.{i}"]))
        np.testing.assert_array_equal(array, np.arange(COUNT + i, dtype="u4") + np.uint32(i))
    huge = np.asarray(memoryview(loaded["huge"]))
    np.testing.assert_array_equal(huge.reshape(-1), np.arange(5 * COUNT, dtype="f4"))
    assert huge.shape == (5, COUNT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 5 << 20, 1 << 30])
def test_large_and_small_arrays_come_in_the_order_of_the_file(
    path: Path, backend: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_BATCH", batch)
    loaded = load_file(path, backend=backend)
    with safe_open(path, "numpy") as file:
        assert list(loaded) == file.offset_keys()
    assert_whole(loaded)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_arrays_come_from_memory(path: Path, kind: Any) -> None:
    assert_whole(load(kind(path.read_bytes())))


def test_arrays_come_from_a_source_of_a_third_party(path: Path) -> None:
    source = Stored(path.read_bytes())
    assert_whole(get_framework("mlx").load(source, source.read_header().tensors, "cpu"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_slices_of_large_arrays_are_those_of_numpy(path: Path, backend: Any) -> None:
    with safe_open(path, "mlx", backend=backend) as file:
        part = file.get_slice("huge")[1:4:2, -3:]
    expected = np.arange(5 * COUNT, dtype="f4").reshape(5, COUNT)[1:4:2, -3:]
    np.testing.assert_array_equal(np.asarray(memoryview(part)), expected)


@pytest.mark.parametrize(
    "failure", [OSError(errno.EIO, "the disk failed", "acme://model"), KeyboardInterrupt()]
)
def test_an_error_of_the_source_arrives_as_it_was_raised(path: Path, failure: Any) -> None:
    source = Stored(path.read_bytes())
    infos = source.read_header().tensors
    source.failure = failure
    with pytest.raises(type(failure)) as caught:
        get_framework("mlx").load(source, {"huge": infos["huge"]}, "cpu")
    assert caught.value is failure


def test_a_file_that_became_shorter_is_an_error_that_names_it(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    with safe_open(copy, "mlx", backend="pread") as file:
        os.truncate(copy, copy.stat().st_size // 2)
        with pytest.raises(OSError, match="ended at byte") as caught:
            file.get_tensors()
    assert caught.value.filename == str(copy)


def test_what_is_read_is_in_memory_twice_only_in_part(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_BATCH", 6 << 20)
    source = Stored(path.read_bytes())
    infos = source.read_header().tensors
    assert_whole(get_framework("mlx").load(source, infos, "cpu"))
    assert sum(count for count, _ in source.fetched) == len(infos)
    assert len(source.fetched) == 4
    largest = max(info.nbytes for info in infos.values())
    assert max(nbytes for _, nbytes in source.fetched) <= (6 << 20) + largest


def test_nothing_is_nothing() -> None:
    assert load(save({})) == {}


@pytest.mark.parametrize("shape", [(2**31,), (2**31, 1)], ids=["flat", "column"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_array_longer_than_mlx_can_have_is_refused_before_it_is_read(
    tmp_path: Path, shape: tuple[int, ...], backend: Any
) -> None:
    path = tmp_path / "model.safetensors"
    header = b'{"layer.7":{"dtype":"U8","shape":%s,"data_offsets":[0,%d]}}'
    header %= (str(list(shape)).encode(), 2**31)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 2**31)  # a hole: it takes no space
    with safe_open(path, "mlx", backend=backend) as file:
        with pytest.raises(InvalidInputError, match=r"'layer\.7'.*2,147,483,647"):
            file.get_tensor("layer.7")
        assert file.get_slice("layer.7")[-3:].reshape(-1).tolist() == [0, 0, 0]


def test_more_dimensions_than_numpy_has_are_refused() -> None:
    header = f'{{"w":{{"dtype":"U8","shape":{[1] * 65},"data_offsets":[0,1]}}}}'.encode()
    data = len(header).to_bytes(8, "little") + header + b"\7"
    with pytest.raises(InvalidInputError, match=r"tensor 'w'.*shape"):
        load(data)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_threads_load_at_once(path: Path, backend: Any) -> None:
    together = threading.Barrier(6)

    def work(_: int) -> dict[str, mx.array]:
        together.wait()
        return load_file(path, backend=backend)

    with ThreadPoolExecutor(6) as pool:
        for loaded in pool.map(work, range(6)):
            assert_whole(loaded)


def test_threads_share_one_open_file(path: Path) -> None:
    with safe_open(path, "mlx", backend="pread") as file, ThreadPoolExecutor(4) as pool:
        names = file.keys()
        assert_whole(dict(zip(names, pool.map(file.get_tensor, names), strict=True)))


def test_arrays_that_a_thread_loaded_can_be_computed_with_in_another(path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(load_file, path).result()
    assert mx.sum(loaded["small.3"]).item() == 9
    assert mx.sum(loaded["large.0"][:5]).item() == 10
    assert load(save(loaded))["small.7"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_can_end_right_after_a_load(path: Path, backend: Any) -> None:
    code = (
        f"from safetensors_mlx import load_file; a = load_file({str(path)!r}, backend={backend!r})"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
