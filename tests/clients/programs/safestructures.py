"""safestructures: nested Python data with arrays inside, whose structure goes into the metadata."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

if find_spec("jax"):
    # Where it finds JAX, safestructures imports a module that JAX no longer has. A None says that
    # JAX is not installed, and keeps TensorFlow from being imported without need.
    sys.modules.update(dict.fromkeys(("jax", "tensorflow")))  # type: ignore[arg-type]

import safestructures

from tests.clients.recording import Recording, digest


def data() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    layers = [
        {"weight": generator.standard_normal((512, 512), np.float32), "index": index}
        for index in range(8)
    ]
    return {
        "layers": layers,
        "pair": (np.arange(5), 2.5),
        "names": ["a", "é"],
        "set": {3},
        "nothing": None,
        "flag": True,
        "complex": 1 + 2j,
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3)),
    }


def described(value: Any) -> Any:
    """The data as JSON can hold it, with arrays as their hashes."""
    if isinstance(value, dict):
        return {key: described(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [type(value).__name__, *map(described, value)]
    if hasattr(value, "dtype"):
        return digest(value)
    return repr(value)


def main(folder: Path) -> None:
    recording = Recording()
    path = folder / "data.safetensors"
    recording.timed("save", lambda: safestructures.save_file(data(), path))
    loaded = recording.timed("load", lambda: safestructures.load_file(path))
    recording.result("data", described(loaded))

    as_torch = safestructures.load_file(path, framework="pt")
    recording.result("as torch", described(as_torch))
    tensors = {"t": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)}
    safestructures.save_file([tensors, "text"], folder / "torch.safetensors", {"more": "metadata"})
    again = safestructures.load_file(folder / "torch.safetensors", framework="pt")
    recording.result("torch", described(again))
    safestructures.save_file({"only": "text"}, folder / "no arrays.safetensors")
    recording.result(
        "no arrays", described(safestructures.load_file(folder / "no arrays.safetensors"))
    )
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
