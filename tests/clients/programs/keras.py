"""Keras on TensorFlow: weights and the state of an optimizer are stored, and a training goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import safetensors.numpy
import tensorflow as tf
from safetensors.tensorflow import load, load_file, save, save_file

from tests.clients.recording import Recording, digest

X = np.linspace(-1, 1, 16 * 512, dtype=np.float32).reshape(16, 512)
Y = np.sin(X)


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((512,)),
        keras.layers.Dense(1024, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(512),
    ]
    network = keras.Sequential(layers)
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    network.optimizer.build(network.trainable_variables)
    return network


def variables(network: keras.Model) -> dict[str, keras.Variable]:
    """Every variable that a training needs, by its place: a model made later has other names."""
    everything = [*network.variables, *network.optimizer.variables]
    return {f"variable {index:02}": variable for index, variable in enumerate(everything)}


def tensors(network: keras.Model) -> dict[str, tf.Tensor]:
    # The reference cannot save a tensor of TensorFlow without dimensions.
    return {
        name: tf.reshape(variable, list(variable.shape) or [1])
        for name, variable in variables(network).items()
    }


def train(network: keras.Model) -> list[float]:
    history = network.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return [float(loss) for loss in history.history["loss"]]


def main(folder: Path) -> None:
    recording = Recording()
    trained = model()
    recording.result("losses", train(trained))
    path = folder / "training.safetensors"
    state = tensors(trained)
    recording.timed("save", lambda: save_file(dict(state), path, {"epoch": "2"}))
    loaded = recording.timed("load", lambda: load_file(path))
    recording.result("loaded", digest(loaded))

    resumed = model()
    for name, variable in variables(resumed).items():
        variable.assign(tf.reshape(loaded[name], variable.shape))
    recording.result("predictions", digest(resumed.predict(X, verbose=0)))
    recording.result("losses after loading", train(resumed))
    recording.result("losses without loading", train(trained))

    data = recording.timed("save to bytes", lambda: save(dict(state)))
    recording.result("from bytes", digest(recording.timed("load bytes", lambda: load(data))))

    # Keras's own lists of arrays, through NumPy.
    arrays = {f"{index:03}": array for index, array in enumerate(trained.get_weights())}
    safetensors.numpy.save_file(arrays, folder / "weights.safetensors")
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    resumed.set_weights([weights[name] for name in sorted(weights)])
    recording.result("weights set", digest(resumed.predict(X, verbose=0)))
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
