"""Trees of arrays: any structure that JAX knows, under clean names, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.jax.tests.trees import assert_equal_trees, names
from safetensors_core import InvalidInputError, StateDictError, read_header
from safetensors_jax import load_file, load_pytree, save_file, save_pytree


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.safetensors"


class Pair(NamedTuple):
    first: Any
    second: Any


LEAVES = st.integers(0, 99).map(lambda n: np.full((n % 3,), n, np.float32))
KEYS = st.text("abc", min_size=1, max_size=3)
TREES = st.recursive(
    LEAVES,
    lambda t: (
        st.dictionaries(KEYS, t, min_size=1, max_size=3)
        | st.lists(t, min_size=1, max_size=3)
        | st.tuples(t, t)
        | st.builds(Pair, t, t)
    ),
    max_leaves=8,
)


@given(tree=TREES.filter(lambda tree: not isinstance(tree, np.ndarray)))
def test_any_tree_comes_back_in_its_structure(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-tree.safetensors"
    save_pytree(tree, path, fsync=False)
    assert_equal_trees(load_pytree(path, tree), tree)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    assert_equal_trees(load_pytree(path, shapes), tree)


@given(tree=st.recursive(LEAVES, lambda t: st.dictionaries(KEYS, t, min_size=1), max_leaves=8))
def test_dicts_come_back_without_a_template(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-dict.safetensors"
    tree = {"root": tree}
    save_pytree(tree, path, separator="//", fsync=False)
    assert_equal_trees(load_pytree(path, separator="//"), tree)


def test_arrays_of_numpy_and_its_scalars_are_saved_too(path: Path) -> None:
    save_pytree({"a": np.arange(3, dtype=np.int16), "b": np.float32(2), "c": jnp.ones(1)}, path)
    loaded = load_pytree(path)
    assert loaded["a"].tolist() == [0, 1, 2]
    assert loaded["b"] == 2


def test_what_is_no_array_is_left_to_the_template(path: Path) -> None:
    save_pytree({"w": jnp.ones(1), "f": len, "s": "text", "n": None, "step": 3}, path)
    assert names(path) == ["w"]
    like = {"w": jnp.zeros(1), "f": max, "s": "other", "n": None, "step": 4}
    loaded = load_pytree(path, like)
    assert loaded == {"w": loaded["w"], "f": max, "s": "other", "n": None, "step": 4}
    assert loaded["w"].tolist() == [1]


def test_the_dtype_is_the_file_s(path: Path) -> None:
    save_pytree({"w": jnp.ones(3, jnp.bfloat16)}, path)
    assert load_pytree(path, {"w": jnp.zeros(3, jnp.float32)})["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_random_keys_come_back_as_keys(path: Path, kind: str) -> None:
    keys = jax.random.split(jax.random.key(7, impl=kind), 3)
    save_pytree({"keys": keys}, path)
    for like in (keys, jax.eval_shape(lambda: keys)):
        loaded = load_pytree(path, {"keys": like})["keys"]
        assert loaded.dtype == keys.dtype
        assert np.array_equal(jax.random.normal(loaded[1], (4,)), jax.random.normal(keys[1], (4,)))
    assert load_pytree(path)["keys"].dtype == np.uint32


def test_a_key_of_another_kind_does_not_match(path: Path) -> None:
    save_pytree({"key": jax.random.key(7, impl="rbg")}, path)
    with pytest.raises(StateDictError, match=r"'key' \(\[4\] in the file, \[2\]\)"):
        load_pytree(path, {"key": jax.random.key(7)})
    save_file({"key": jnp.ones(2)}, path)
    with pytest.raises(InvalidInputError, match="tensor 'key' cannot be a key"):
        load_pytree(path, {"key": jax.random.key(7)})


def test_metadata_and_options_reach_the_file(path: Path) -> None:
    save_pytree({"a": {"b": jnp.ones(1)}}, path, {"by": "test"}, separator="/", alignment=4096)
    header = read_header(path)
    assert (list(header.tensors), header.metadata) == (["a/b"], {"by": "test"})
    assert header.data_start == 4096
    assert load_pytree(path, separator="/", backend="pread")["a"]["b"].tolist() == [1]


# --- what does not fit


def test_two_leaves_of_one_name_are_refused_by_their_paths(path: Path) -> None:
    tree = {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)}
    message = r"leaves \['a'\]\['b'\] and \['a\.b'\] would both be named 'a\.b'"
    with pytest.raises(InvalidInputError, match=message):
        save_pytree(tree, path)
    assert not path.exists()
    save_pytree(tree, path, separator="/")
    with pytest.raises(InvalidInputError, match=message):
        load_pytree(path, tree)
    assert_equal_trees(load_pytree(path, separator="/"), tree)


def test_a_name_that_begins_another_needs_a_template(path: Path) -> None:
    save_file({"a": jnp.ones(1), "a.b": jnp.ones(2)}, path)
    with pytest.raises(InvalidInputError, match=r"'a' and tensor 'a\.b' cannot both be"):
        load_pytree(path)
    assert list(load_pytree(path, separator="/")) == list(load_file(path))


def test_a_type_among_the_leaves_is_no_array(path: Path) -> None:
    save_pytree({"w": jnp.ones(1), "type": np.float32}, path)
    assert names(path) == ["w"]
    assert load_pytree(path, {"w": jnp.zeros(1), "type": np.int8})["type"] is np.int8


def test_dicts_whose_keys_have_no_order_are_refused(path: Path) -> None:
    save_pytree({"w": jnp.ones(1)}, path)
    tree = {"w": jnp.ones(1), 1: jnp.ones(1)}
    for function in (lambda: save_pytree(tree, path), lambda: load_pytree(path, tree)):
        with pytest.raises(InvalidInputError, match=r"cannot be flattened: .*keys"):
            function()


@pytest.mark.parametrize("separator", ["", None, 1])
def test_a_separator_is_a_text(path: Path, separator: Any) -> None:
    with pytest.raises(InvalidInputError, match="separator"):
        save_pytree({"a": jnp.ones(1)}, path, separator=separator)
    save_pytree({"a": jnp.ones(1)}, path)
    for like in (None, {"a": jnp.ones(1)}):
        with pytest.raises(InvalidInputError, match="separator"):
            load_pytree(path, like, separator=separator)


@pytest.mark.parametrize("tree", [len, 3, {"a": "text"}, [1.0, 2.0]])
def test_a_tree_without_arrays_is_refused(path: Path, tree: Any) -> None:
    with pytest.raises(InvalidInputError, match="holds no array"):
        save_pytree(tree, path)


def test_a_description_has_nothing_to_save(path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"leaf \['a'\] is a jax\.ShapeDtypeStruct"):
        save_pytree({"a": jax.ShapeDtypeStruct((1,), jnp.float32)}, path)


def test_differences_are_named_before_anything_is_read(path: Path) -> None:
    save_pytree({"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2)}, path)
    like = {"a": jnp.zeros(2), "b": jnp.zeros(3), "d": jnp.zeros(1)}
    with pytest.raises(StateDictError) as caught:
        load_pytree(path, like)
    assert (caught.value.missing, caught.value.unexpected) == (["d"], ["c"])
    assert caught.value.mismatched == {"b": ([2], [3])}
    assert str(path) in str(caught.value)
    with pytest.raises(StateDictError, match="other shapes"):
        load_pytree(path, like, strict=False)


def test_a_lax_load_keeps_what_the_file_lacks_and_passes_over_what_it_has_more(path: Path) -> None:
    save_pytree({"a": jnp.ones(2), "more": jnp.ones(1)}, path)
    like = {"a": jnp.zeros(2), "d": jnp.full(1, 5.0)}
    loaded = load_pytree(path, like, strict=False)
    assert loaded["a"].tolist() == [1, 1]
    assert loaded["d"] is like["d"]
    assert list(loaded) == ["a", "d"]
    described = jax.eval_shape(lambda: like)
    with pytest.raises(StateDictError, match="missing 'd'"):
        load_pytree(path, described, strict=False)


def test_a_template_that_is_committed_says_where_the_array_goes(path: Path) -> None:
    save_pytree({"a": jnp.ones(2), "b": jnp.ones(2)}, path)
    device = jax.devices()[0]
    loaded = load_pytree(path, {"a": jax.device_put(jnp.ones(2), device), "b": jnp.ones(2)})
    assert loaded["a"].committed
    assert not loaded["b"].committed
    mesh = jax.sharding.AbstractMesh((1,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    described = jax.ShapeDtypeStruct((2,), jnp.float32, sharding=sharding)
    assert not load_pytree(path, {"a": described, "b": jnp.ones(2)})["a"].committed


def test_a_template_may_be_traced(path: Path) -> None:
    save_pytree({"w": jnp.ones(3)}, path)

    @jax.jit
    def function(x: jax.Array) -> Any:
        return load_pytree(path, {"w": x})["w"] + x

    assert function(jnp.ones(3)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("like", [None, {"a": jnp.zeros(3), "n": jnp.zeros(1, jnp.int32)}])
def test_a_tree_comes_in_another_dtype_and_tells_how_far_it_is(path: Path, like: Any) -> None:
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))

    tree = {"a": jnp.ones(3) / 3, "n": jnp.arange(1, dtype=jnp.int32)}
    save_pytree(tree, path, progress=progress)
    assert reports[-1] == (path.stat().st_size,) * 2
    loaded = load_pytree(path, like, dtype="BF16", progress=progress)
    assert reports[-1] == (16, 16)
    assert_equal_trees(loaded, {"a": tree["a"].astype(jnp.bfloat16), "n": tree["n"]})
