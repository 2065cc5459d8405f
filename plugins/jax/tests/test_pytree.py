"""Trees of arrays: any structure that JAX knows, under clean names, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import equinox
import flax
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training import train_state
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import InvalidInputError, StateDictError, read_header
from safetensors_jax import load_file, load_pytree, save_file, save_pytree

X = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.safetensors"


def names(path: Path) -> list[str]:
    return sorted(read_header(path).tensors)


def assert_equal_trees(left: Any, right: Any) -> None:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (left, right)]
    assert structures[0] == structures[1]
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


# --- Flax NNX


class Network(nnx.Module):  # type: ignore[misc]
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        return self.dropout(self.norm(self.linear(x)))


NETWORK_NAMES = [
    "dropout.rngs.count",
    "dropout.rngs.key",
    "linear.bias",
    "linear.kernel",
    "norm.bias",
    "norm.mean",
    "norm.scale",
    "norm.var",
]


def test_an_nnx_module_comes_back_whole_with_its_random_state(path: Path) -> None:
    model = Network(nnx.Rngs(0))
    model(X)  # changes the statistics of the norm and the count of the dropout
    save_pytree(model, path)
    assert names(path) == NETWORK_NAMES
    expected = model(X)
    for like in (Network(nnx.Rngs(1)), nnx.eval_shape(lambda: Network(nnx.Rngs(1)))):
        loaded = load_pytree(path, like)
        assert isinstance(loaded, Network)
        assert isinstance(loaded.linear.kernel, nnx.Param)
        assert np.array_equal(loaded(X), expected)


def test_the_state_of_an_nnx_module_has_the_same_names(path: Path) -> None:
    model, other = Network(nnx.Rngs(0)), Network(nnx.Rngs(1))
    save_pytree(nnx.state(model), path)
    assert names(path) == NETWORK_NAMES
    nnx.update(other, load_pytree(path, nnx.state(other)))
    assert np.array_equal(other(X), model(X))


def test_parameters_of_an_nnx_module_can_be_saved_alone(path: Path) -> None:
    model, other = Network(nnx.Rngs(0)), Network(nnx.Rngs(1))
    save_pytree(nnx.state(model, nnx.Param), path)
    assert names(path) == ["linear.bias", "linear.kernel", "norm.bias", "norm.scale"]
    nnx.update(other, load_pytree(path, nnx.state(other, nnx.Param)))
    assert np.array_equal(other.linear(X), model.linear(X))


def test_tied_parameters_stay_tied_by_way_of_the_state(path: Path) -> None:
    class Tied(nnx.Module):  # type: ignore[misc]
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.one = nnx.Linear(2, 2, rngs=rngs)
            self.two = nnx.Linear(2, 2, rngs=rngs)
            self.two.kernel = self.one.kernel

    model = Tied(nnx.Rngs(0))
    save_pytree(nnx.state(model), path)
    assert names(path) == ["one.bias", "one.kernel", "two.bias"]
    definition, state = nnx.split(Tied(nnx.Rngs(1)))
    loaded = nnx.merge(definition, load_pytree(path, state))
    assert loaded.one.kernel is loaded.two.kernel
    assert np.array_equal(loaded.two(X), model.two(X))


# --- Flax linen


class Dense(linen.Module):  # type: ignore[misc]
    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: jax.Array) -> Any:
        return linen.BatchNorm(use_running_average=True)(linen.Dense(3)(x))


def test_linen_variables_come_back_with_and_without_a_template(path: Path) -> None:
    variables = Dense().init(jax.random.key(0), X)
    save_pytree(variables, path)
    assert "params.Dense_0.kernel" in names(path)
    assert "batch_stats.BatchNorm_0.mean" in names(path)
    shapes = jax.eval_shape(Dense().init, jax.random.key(0), X)
    for loaded in (load_pytree(path), load_pytree(path, variables), load_pytree(path, shapes)):
        assert_equal_trees(loaded, variables)
        assert np.array_equal(Dense().apply(loaded, X), Dense().apply(variables, X))


def test_a_frozen_dict_comes_back_as_one(path: Path) -> None:
    frozen = flax.core.freeze({"params": {"w": jnp.ones(3)}})
    save_pytree(frozen, path)
    loaded = load_pytree(path, frozen)
    assert isinstance(loaded, flax.core.FrozenDict)
    assert_equal_trees(loaded, frozen)


def test_boxes_of_linen_leave_no_trace_in_the_names(path: Path) -> None:
    make = linen.with_partitioning(linen.initializers.ones, ("data", "model"))
    tree = {"kernel": make(jax.random.key(0), (2, 3)), "bias": jnp.zeros(3)}
    save_pytree(tree, path)
    assert names(path) == ["bias", "kernel"]
    loaded = load_pytree(path, tree)
    assert isinstance(loaded["kernel"], linen.Partitioned)
    assert loaded["kernel"].names == ("data", "model")
    assert np.array_equal(loaded["kernel"].value, np.ones((2, 3)))


def test_a_train_state_comes_back_also_where_its_step_was_a_number(path: Path) -> None:
    model = Dense()
    variables = model.init(jax.random.key(0), X)

    def fresh() -> Any:
        return train_state.TrainState.create(
            apply_fn=model.apply, params=variables["params"], tx=optax.adam(1e-3)
        )

    trained = jax.jit(lambda state: state.apply_gradients(grads=state.params))(fresh())
    save_pytree(trained, path)
    loaded = load_pytree(path, fresh())
    assert loaded.step == 1
    assert_equal_trees(loaded.params, trained.params)
    assert_equal_trees(loaded.opt_state, trained.opt_state)
    assert loaded.tx is not None


# --- Haiku, Equinox, Optax


def run_mlp(x: jax.Array) -> Any:
    return haiku.nets.MLP([4, 3])(x)


def test_haiku_parameters_come_back_without_a_template(path: Path) -> None:
    network = haiku.without_apply_rng(haiku.transform(run_mlp))
    params = network.init(jax.random.PRNGKey(0), X)
    save_pytree(params, path)
    assert names(path)[0] == "mlp/~/linear_0.b"
    loaded = load_pytree(path)
    assert_equal_trees(loaded, params)
    assert np.array_equal(network.apply(loaded, X), network.apply(params, X))


def make_mlp(seed: int) -> Any:
    return equinox.nn.MLP(2, 3, 4, 2, key=jax.random.key(seed))


def test_an_equinox_module_keeps_its_functions(path: Path) -> None:
    model = make_mlp(0)
    save_pytree(model, path)
    assert names(path) == [f"layers.{i}.{part}" for i in range(3) for part in ("bias", "weight")]
    skeleton = equinox.filter_eval_shape(make_mlp, 1)
    for loaded in (load_pytree(path, make_mlp(1)), load_pytree(path, skeleton)):
        assert loaded.activation is make_mlp(1).activation
        assert np.array_equal(jax.vmap(loaded)(X), jax.vmap(model)(X))


def test_numbers_in_an_equinox_module_are_those_of_the_template(path: Path) -> None:
    save_pytree((equinox.nn.Dropout(0.1), jnp.ones(1)), path)
    assert names(path) == ["1"]
    dropout, array = load_pytree(path, (equinox.nn.Dropout(0.7), jnp.zeros(1)))
    assert (dropout.p, array[0]) == (0.7, 1)


def test_an_optimizer_s_state_comes_back(path: Path) -> None:
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    _, state = optimizer.update(params, optimizer.init(params), params)
    save_pytree(state, path)
    assert "1.0.mu.w" in names(path)
    assert_equal_trees(load_pytree(path, optimizer.init(params)), state)


# --- trees in general


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
