"""MLX: a training that saves and goes on; MLX's own reader and writer agree."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
from mlx import nn, optimizers
from mlx.utils import tree_flatten, tree_unflatten
from safetensors import safe_open
from safetensors.mlx import load, load_file, save, save_file

from tests.clients.recording import Recording, digest

X = mx.linspace(-1, 1, 8 * 512).reshape(8, 512)
Y = mx.sin(X)


class Training:
    """A network and its optimizer."""

    def __init__(self) -> None:
        mx.random.seed(0)
        self.network = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512))
        self.optimizer = optimizers.AdamW(1e-3)

    def steps(self, number: int) -> list[float]:
        def loss(network: nn.Module) -> mx.array:
            return nn.losses.mse_loss(network(X), Y)

        losses = []
        for _ in range(number):
            value, gradients = nn.value_and_grad(self.network, loss)(self.network)
            self.optimizer.update(self.network, gradients)
            mx.eval(self.network.parameters(), self.optimizer.state)
            losses.append(value.item())
        return losses

    def state(self) -> dict[str, mx.array]:
        everything = {"network": self.network.parameters(), "optimizer": self.optimizer.state}
        return dict(tree_flatten(everything))

    def restore(self, arrays: dict[str, mx.array]) -> None:
        nested = tree_unflatten(list(arrays.items()))
        self.network.update(nested["network"])
        self.optimizer.state = nested["optimizer"]


def loaded_file(path: Path) -> dict[str, mx.array]:
    arrays: dict[str, mx.array] = load_file(path)
    mx.eval(arrays)
    return arrays


def main(folder: Path) -> None:
    mx.set_default_device(mx.cpu)
    recording = Recording()
    training = Training()
    recording.result("losses", training.steps(3))
    path = folder / "training.safetensors"
    state = training.state()
    recording.timed("save", lambda: save_file(dict(state), path, {"step": "3"}))
    arrays = recording.timed("load", lambda: loaded_file(path))
    recording.result("loaded", digest(arrays))

    resumed = Training()
    resumed.restore(arrays)
    recording.result("losses after loading", resumed.steps(2))
    recording.result("losses without loading", training.steps(2))

    # What either side writes, MLX reads, and the other way round.
    recording.result("read by MLX", digest(dict(mx.load(str(path)))))
    mx.save_safetensors(str(folder / "by MLX.safetensors"), state)
    recording.result("written by MLX", digest(load_file(folder / "by MLX.safetensors")))

    half = {name: array.astype(mx.float16) for name, array in state.items()}
    recording.result("from bytes", digest(load(save(half))))
    with safe_open(path, framework="mlx") as file:
        recording.result("metadata", file.metadata())
        name = "network.layers.0.weight"
        recording.result("one", digest(file.get_tensor(name)))
        recording.result("slice", digest(file.get_slice(name)[3:7]))
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
