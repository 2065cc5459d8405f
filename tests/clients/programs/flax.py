"""Flax and Optax: a whole training state is stored, and the training goes on from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState
from safetensors import safe_open
from safetensors.flax import load, load_file, save, save_file

from tests.clients.recording import Recording, digest

WIDTH = 512
X = jnp.linspace(-1, 1, 8 * WIDTH).reshape(8, WIDTH)
Y = jnp.sin(X)


class Network(nn.Module):
    """Two dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(1024)(x))
        return nn.Dense(WIDTH)(x)


def new_state() -> TrainState:
    network = Network()
    parameters = network.init(jax.random.key(0), X)["params"]
    return TrainState.create(apply_fn=network.apply, params=parameters, tx=optax.adamw(1e-3))


@jax.jit
def step(state: TrainState) -> tuple[TrainState, jax.Array]:
    def loss(parameters: Any) -> jax.Array:
        return jnp.mean((state.apply_fn({"params": parameters}, X) - Y) ** 2)

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradients), value


def flat(state: TrainState) -> dict[str, jax.Array]:
    """The arrays of a state by names that a file can hold; counters become arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): jnp.asarray(leaf) for path, leaf in leaves}


def training(recording: Recording, folder: Path) -> None:
    state = new_state()
    for _ in range(2):
        state, _ = step(state)
    path = folder / "state.safetensors"
    arrays = flat(state)
    recording.timed("save", lambda: save_file(dict(arrays), path, {"framework": "flax"}))
    loaded = recording.timed("load", lambda: jax.block_until_ready(load_file(path)))
    recording.result("loaded", digest(loaded))

    start = new_state()
    resumed = jax.tree.unflatten(jax.tree.structure(start), [loaded[name] for name in flat(start)])
    losses = []
    for _ in range(3):
        resumed, loss = step(resumed)
        losses.append(float(loss))
    recording.result("losses", losses)
    recording.result("went on", digest(flat(resumed)))

    half = {name: array.astype(jnp.float16) for name, array in arrays.items()}
    data = recording.timed("save to bytes", lambda: save(dict(half)))
    again = recording.timed("load bytes", lambda: jax.block_until_ready(load(data)))
    recording.result("from bytes", digest(again))
    with safe_open(path, framework="flax") as file:
        recording.result("metadata", file.metadata())
        name = ".params['Dense_0']['kernel']"
        recording.result("one", digest(file.get_tensor(name)))
        recording.result("slice", digest(file.get_slice(name)[:, 3:7]))


def nnx_module(recording: Recording, folder: Path) -> None:
    model = nnx.Linear(64, 32, rngs=nnx.Rngs(1))
    path = folder / "nnx.safetensors"
    save_file({"kernel": model.kernel[...], "bias": model.bias[...]}, path)
    other = nnx.Linear(64, 32, rngs=nnx.Rngs(2))
    for name, array in load_file(path).items():
        getattr(other, name)[...] = array
    recording.result("nnx", digest(other(jnp.ones((1, 64)))))


def main(folder: Path) -> None:
    recording = Recording()
    training(recording, folder)
    nnx_module(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
