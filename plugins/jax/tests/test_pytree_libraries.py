"""Models of the libraries that build on JAX, saved as trees under clean names, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

from plugins.jax.tests.trees import assert_equal_trees, names
from safetensors_jax import load_pytree, save_pytree

X = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.safetensors"


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
