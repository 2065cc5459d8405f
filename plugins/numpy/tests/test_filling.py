"""What `load_into` makes of arrays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from safetensors_core import InvalidInputError, SharedMemoryError, StateDictError
from safetensors_numpy import load_file, load_into, save_file

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path, monkeypatch):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    save_file({"w": ARRAY}, "model.safetensors")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3), ">f4"),
        np.zeros((3, 2), np.float32).T,
        np.zeros((2, 6), np.float32)[:, ::2],
        np.zeros((2, 3), np.float32)[::-1],
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), ml_dtypes.bfloat16),
        np.zeros((2, 3), np.float32).view(np.matrix),
    ],
)
def test_arrays_of_all_kinds_are_filled(array: npt.NDArray[np.float32]) -> None:
    kept = array.__array_interface__["data"], array.strides, array.dtype
    assert load_into({"w": array}, "model.safetensors") == ([], [])
    assert np.array_equal(array, ARRAY)
    assert (array.__array_interface__["data"], array.strides, array.dtype) == kept


def test_a_file_on_disk_that_is_mapped_for_writing_is_filled() -> None:
    mapped = np.memmap("array.bin", np.float32, "w+", shape=(2, 3))
    load_into({"w": mapped}, "model.safetensors")
    mapped.flush()
    assert np.array_equal(np.fromfile("array.bin", np.float32), ARRAY.reshape(-1))


@pytest.mark.parametrize("dtype", [ml_dtypes.float4_e2m1fn, ml_dtypes.float6_e2m3fn])
def test_packed_elements_are_unpacked_on_the_way(dtype: type[np.generic]) -> None:
    packed = np.array([0.5, 1, 1.5, 2], dtype)
    save_file({"p": packed}, "packed.safetensors")
    array = np.zeros(4, dtype)
    load_into({"p": array}, "packed.safetensors")
    assert array.tobytes() == packed.tobytes()


def test_an_array_over_the_file_itself_is_filled_from_the_file() -> None:
    mapped = load_file("model.safetensors", backend="mmap")
    mapped["w"][:] = 7
    load_into(mapped, "model.safetensors")
    assert np.array_equal(mapped["w"], ARRAY)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.broadcast_to(np.float32(1), (2, 3)), "'w' is a read-only array"),
        (np.float32(1), "'w' is a scalar"),
        (sliding_window_view(np.zeros(4), 3, writeable=True), "several elements are one in memory"),
        (np.ma.zeros((2, 3)), "masked array"),
    ],
)
def test_what_cannot_change_is_refused(array: npt.NDArray[np.float32], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        load_into({"w": array}, "model.safetensors")


SQUARE = np.arange(9, dtype=np.float32).reshape(3, 3)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize(
    "second",
    [lambda a: a.T, lambda a: a[:, ::-1], lambda a: a[:], lambda a: a[::-1], lambda a: a.view()],
)
def test_memory_is_never_filled_with_two_entries(second, dtype: str) -> None:  # type: ignore[no-untyped-def]
    save_file({"a": SQUARE, "b": SQUARE + 100}, "two.safetensors")
    array = np.zeros((3, 3), dtype)
    with pytest.raises(SharedMemoryError, match="share memory"):
        load_into({"a": array, "b": second(array)}, "two.safetensors")
    assert not array.any()


def test_views_that_lie_between_each_other_are_filled() -> None:
    both = np.zeros((3, 6), np.float32)
    save_file({"a": SQUARE, "b": SQUARE + 100}, "two.safetensors")
    load_into({"a": both[:, ::2], "b": both[:, 1::2]}, "two.safetensors")
    assert np.array_equal(both[:, ::2], SQUARE)
    assert np.array_equal(both[:, 1::2], SQUARE + 100)


def test_a_view_inside_of_what_is_filled_is_not_missing() -> None:
    array = np.zeros((2, 3), np.float32)
    views = {"same": array[:], "flat": array.reshape(-1), "row": array[1], "bits": array.view("u1")}
    assert load_into({"w": array, **views}, "model.safetensors") == ([], [])
    assert np.array_equal(array, ARRAY)
    larger = np.zeros((4, 3), np.float32)
    with pytest.raises(StateDictError, match="missing 'larger'"):
        load_into({"w": larger[:2], "larger": larger}, "model.safetensors")
