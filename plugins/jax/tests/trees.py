"""Looking at trees, and at the files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from safetensors_core import read_header


def names(path: Path) -> list[str]:
    return sorted(read_header(path).tensors)


def assert_equal_trees(left: Any, right: Any) -> None:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (left, right)]
    assert structures[0] == structures[1]
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
