"""64-bit tensors where JAX computes in 32 bits: exact, and never without a word."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safetensors_numpy
from safetensors_core import exchange, loading, safe_open, save_checkpoint
from safetensors_jax import load, load_file, load_pytree, save, save_pytree

# Numbers that 32 bits cannot hold.
WIDE = {
    "i64": np.array([2**53 + 1, -(2**63)], np.int64),
    "u64": np.array([2**64 - 1, 0], np.uint64),
    "f64": np.array([1 / 3, 1e300], np.float64),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    safetensors_numpy.save_file(
        {**WIDE, "narrow": np.ones(2, np.float32)}, tmp_path / "model.safetensors"
    )
    return tmp_path / "model.safetensors"


def assert_exact(array: jax.Array, expected: np.ndarray[Any, Any]) -> None:
    assert array.dtype == expected.dtype
    assert np.asarray(array).tobytes() == expected.tobytes()


def test_one_warning_for_one_load_names_the_tensors_and_points_at_the_caller(path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_file(path)
    assert len(caught) == 1
    assert caught[0].category is UserWarning
    assert caught[0].filename == __file__
    text = str(caught[0].message)
    assert all(repr(name) in text for name in WIDE)
    assert "'narrow'" not in text
    assert "jax_enable_x64" in text
    for name, expected in WIDE.items():
        assert_exact(loaded[name], expected)


def test_the_warning_lists_ten_names_and_counts_the_others() -> None:
    data = safetensors_numpy.save({f"t{i:02}": np.zeros(1) for i in range(13)})
    with pytest.warns(UserWarning, match=r"'t00', .*'t09' and 3 more\. They are"):
        load(data)


def test_nothing_is_said_where_jax_computes_with_64_bits(path: Path) -> None:
    with jax.enable_x64(True):
        loaded = load_file(path)
        assert_exact(loaded["i64"] - 1, WIDE["i64"] - 1)


def test_nothing_is_said_where_no_such_tensor_is_loaded(path: Path) -> None:
    assert list(load_file(path, keys="narrow")) == ["narrow"]


def test_loading_leaves_jax_in_the_mode_that_it_was_in(path: Path) -> None:
    with pytest.warns(UserWarning, match="64 bits"):
        load_file(path)
    assert jnp.asarray(np.zeros(1)).dtype == np.float32


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("index", [..., 0, slice(None, None, -1), [1, 0], None], ids=repr)
def test_slices_are_exact_and_warn(path: Path, backend: Any, index: Any) -> None:
    with safe_open(path, "jax", backend=backend) as file:
        for name, expected in WIDE.items():
            with pytest.warns(UserWarning, match=f"64 bits: '{name}'") as caught:
                part = file.get_slice(name)[index]
            assert len(caught) == 1
            assert caught[0].filename == __file__
            assert_exact(part, np.asarray(expected[index]))


def test_an_exchange_is_exact_and_warns_once() -> None:
    with pytest.warns(UserWarning, match="64 bits: 'i64', 'u64', 'f64'") as caught:
        arrays = exchange(WIDE, "jax")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for name, expected in WIDE.items():
        assert_exact(arrays[name], expected)


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_a_load_in_windows_warns_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    monkeypatch.setattr(loading, "WINDOW", 1)
    reports: list[int] = []

    def progress(done: int, _total: int) -> None:
        reports.append(done)

    with pytest.warns(UserWarning, match="64 bits: 'u64', 'i64'") as caught:
        loaded = load_file(path, backend=backend, dtype="F32", progress=progress)
    assert len(reports) > 2
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "'f64'" not in str(caught[0].message)
    assert loaded["f64"].dtype == np.float32
    assert_exact(loaded["i64"], WIDE["i64"])
    with (
        safe_open(path, "jax", backend=backend) as file,
        pytest.warns(UserWarning, match="64 bits") as caught,
    ):
        tensors = dict(file.iter_tensors(window=1))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_exact(tensors["f64"], WIDE["f64"])


@pytest.mark.parametrize(
    "get", [load_file, lambda path, **options: load(path.read_bytes(), **options)]
)
def test_what_is_narrowed_while_it_is_loaded_needs_no_warning(tmp_path: Path, get: Any) -> None:
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file({name: np.full(3, 1 / 3) for name in "abc"}, path)
    for array in get(path, dtype="F32").values():
        assert_exact(array, np.full(3, 1 / 3, np.float32))


def test_what_is_widened_while_it_is_loaded_is_exact_and_warns(path: Path) -> None:
    with pytest.warns(UserWarning, match="64 bits: 'narrow'") as caught:
        loaded = load_file(path, keys="narrow", dtype="F64")
    assert len(caught) == 1
    assert_exact(loaded["narrow"], np.ones(2))


def test_several_files_warn_once(tmp_path: Path) -> None:
    save_checkpoint(WIDE, tmp_path, max_shard_size=16)
    with pytest.warns(UserWarning, match="64 bits") as caught:
        loaded = load_file(tmp_path)
    assert sorted(loaded) == sorted(WIDE)
    assert len(caught) == 1
    assert all(repr(name) in str(caught[0].message) for name in WIDE)


def test_one_tensor_is_exact_and_warns_by_its_name(path: Path) -> None:
    with safe_open(path, "jax") as file, pytest.warns(UserWarning, match="64 bits: 'u64'"):
        assert_exact(file.get_tensor("u64"), WIDE["u64"])


def test_saving_is_exact_and_says_nothing(path: Path) -> None:
    with pytest.warns(UserWarning, match="64 bits"):
        loaded = load_file(path)
    assert save(loaded) == path.read_bytes()


def test_trees_are_exact_and_warn(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        tree = {"a": {"i64": jnp.asarray(WIDE["i64"])}}
    save_pytree(tree, tmp_path / "tree.safetensors")
    for like in (None, tree):
        with pytest.warns(UserWarning, match=r"'a\.i64'") as caught:
            loaded = load_pytree(tmp_path / "tree.safetensors", like)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert_exact(loaded["a"]["i64"], WIDE["i64"])
