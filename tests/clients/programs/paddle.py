"""Paddle: a training loop that saves and goes on, by `paddle.save` and by functions of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from safetensors import safe_open
from safetensors.paddle import load, load_file, save, save_file

from tests.clients.recording import Recording, digest

X = paddle.linspace(-1, 1, 8 * 512).reshape([8, 512])
Y = paddle.sin(X)


class Training:
    """A network and its optimizer."""

    def __init__(self) -> None:
        paddle.seed(0)
        self.network = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512))
        self.optimizer = paddle.optimizer.AdamW(1e-3, parameters=self.network.parameters())

    def steps(self, number: int) -> list[float]:
        losses = []
        for _ in range(number):
            loss = nn.functional.mse_loss(self.network(X), Y)
            loss.backward()
            self.optimizer.step()
            self.optimizer.clear_grad()
            losses.append(float(loss))
        return losses

    def moments(self) -> dict[str, paddle.Tensor]:
        """The tensors of the optimizer; their names end alike in every training."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return {name: value for name, value in state.items() if paddle.is_tensor(value)}


def hashed(tensors: dict[str, Any]) -> str:
    return digest({name: value.numpy() for name, value in tensors.items()})


def save_by_paddle(recording: Recording, training: Training, folder: Path) -> None:
    path = str(folder / "by paddle.safetensors")
    state = training.network.state_dict()
    recording.timed("save by paddle.save", lambda: paddle.save(state, path, safetensors=True))
    loaded = recording.timed("load by paddle.load", lambda: paddle.load(path, safetensors=True))
    recording.result("by paddle", hashed(loaded))
    arrays = paddle.load(path, safetensors=True, return_numpy=True)
    recording.result("by paddle as arrays", digest(arrays))

    other = Training()
    other.network.set_state_dict(loaded)
    recording.result("output", digest(other.network(X).numpy()))
    other.steps(1)
    recording.result("trained", hashed(other.network.state_dict()))


def save_and_resume(recording: Recording, training: Training, folder: Path) -> None:
    network, optimizer = folder / "network.safetensors", folder / "optimizer.safetensors"
    state, moments = training.network.state_dict(), training.moments()
    recording.timed("save", lambda: save_file(dict(state), network, {"step": "3"}))
    recording.timed("save optimizer", lambda: save_file(dict(moments), optimizer))

    resumed = Training()
    # Paddle numbers its parameters over the whole process, and the optimizer goes by the numbers.
    names = zip(training.network.parameters(), resumed.network.parameters(), strict=True)
    numbers = {old.name: new.name for old, new in names}
    resumed.network.set_state_dict(recording.timed("load", lambda: load_file(network)))
    loaded = recording.timed("load optimizer", lambda: load_file(optimizer))
    renamed = {}
    for name, tensor in loaded.items():
        old = next(number for number in numbers if name.startswith(number))
        renamed[numbers[old] + name.removeprefix(old)] = tensor
    resumed.optimizer.set_state_dict(renamed)
    recording.result("losses after loading", resumed.steps(2))
    recording.result("losses without loading", training.steps(2))

    data = save(dict(state))
    recording.result("from bytes", hashed(load(data)))
    with safe_open(network, framework="paddle") as file:
        recording.result("metadata", file.metadata())
        recording.result("one", digest(file.get_tensor("0.bias").numpy()))
        recording.result("slice", digest(file.get_slice("0.weight")[2:5].numpy()))


def main(folder: Path) -> None:
    recording = Recording()
    training = Training()
    recording.result("losses", training.steps(3))
    save_by_paddle(recording, training, folder)
    save_and_resume(recording, training, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
