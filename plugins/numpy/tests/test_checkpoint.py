"""Checkpoints of arrays: replaced while their own arrays are mapped from them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from safetensors_core import UnsupportedDtypeError, load_file, save_checkpoint


def test_a_checkpoint_can_be_saved_over_the_files_that_its_arrays_are_mapped_from(
    tmp_path: Path,
) -> None:
    arrays = {name: np.full(1000, i, np.float32) for i, name in enumerate("abc")}
    save_checkpoint(arrays, tmp_path, "4kB")
    mapped = load_file(tmp_path, "numpy", backend="mmap")
    mapped["b"] += 1
    save_checkpoint(mapped, tmp_path, "4kB")
    for name, array in load_file(tmp_path, "numpy").items():
        np.testing.assert_array_equal(array, arrays[name] + (name == "b"))
    # The maps still show what they showed.
    np.testing.assert_array_equal(mapped["c"], arrays["c"])


@pytest.mark.parametrize("limits", [("4kB", "1MB"), ("1MB", "4kB"), ("8kB", "4kB")])
def test_a_checkpoint_can_be_cut_anew_in_its_own_folder(
    tmp_path: Path, limits: tuple[str, str]
) -> None:
    arrays = {name: np.full(1000, i, np.float32) for i, name in enumerate("abcd")}
    save_checkpoint(arrays, tmp_path, limits[0])
    saved = save_checkpoint(load_file(tmp_path, "numpy"), tmp_path, limits[1])
    found = load_file(tmp_path, "numpy")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    index = ["model.safetensors.index.json"] if len(saved.files) > 1 else []
    assert sorted(os.listdir(tmp_path)) == sorted([*saved.files, *index])


def test_an_array_that_cannot_be_saved_is_refused_by_its_name_before_anything_is_written(
    tmp_path: Path,
) -> None:
    arrays = {"good": np.zeros(3), "bad": np.array(["text"])}
    with pytest.raises(UnsupportedDtypeError, match="'bad'"):
        save_checkpoint(arrays, tmp_path / "model", 8)
    assert not os.listdir(tmp_path)


def test_arrays_in_any_order_of_memory_are_saved_by_value(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.int32).reshape(4, 6)
    arrays = {
        "strided": base[:, ::2],
        "fortran": np.asfortranarray(base),
        "big": base.astype(">i4"),
    }
    save_checkpoint(arrays, tmp_path, 48)
    for name, array in load_file(tmp_path, "numpy").items():
        np.testing.assert_array_equal(array, arrays[name])
