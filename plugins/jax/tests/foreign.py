"""Foreign checkpoints as the hook of the plugin reads them, compared with what libraries load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_jax import _plugin
from safetensors_numpy.framework import NumpyFramework

NUMPY = NumpyFramework()

# Closed after each test, whatever became of it.
OPENED: list[ForeignCheckpoint] = []


def ask(path: Path, optimizer: bool = False) -> ForeignCheckpoint | None:
    found = _plugin.safetensors_read_checkpoint(path, optimizer)
    if found is not None:
        OPENED.append(found)
    return found


def read(path: Path, optimizer: bool = False) -> ForeignCheckpoint:
    found = ask(path, optimizer)
    assert found is not None
    return found


def stored(found: ForeignCheckpoint) -> dict[str, StoredTensor]:
    assert (found.framework, found.format) == ("numpy", "flax")
    assert all(isinstance(tensor, StoredTensor) for _, tensor in found)
    return dict(found.tensors)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, under their keys joined by dots."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: leaf
        for key, inner in tree.items()
        for name, leaf in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def assert_holds(found: ForeignCheckpoint, expected: dict[str, Any]) -> None:
    """The tensors are these, bit for bit, each time and each way that they are read."""
    tensors = stored(found)
    assert list(tensors) == list(expected)
    for name in reversed(list(tensors)):
        tensor, array = tensors[name], np.asarray(expected[name])
        assert tensor.spec == NUMPY.describe(array), name
        for _ in range(2):
            loaded = tensor.read()
            assert loaded.dtype == array.dtype
            assert loaded.shape == array.shape
            assert loaded.tobytes() == array.tobytes(), name
            if tensor.chunks is not None:
                assert b"".join(tensor.chunks()) == array.tobytes(), name
