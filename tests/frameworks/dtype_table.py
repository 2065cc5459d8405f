"""The table of dtypes in the documentation, made from the plugins.

``python -m tests.frameworks.dtype_table`` writes it anew, where all plugins are installed.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors_core import Dtype, get_framework

__all__ = ["COLUMNS", "PAGE", "cells", "main"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "user" / "dtypes.md"

#: Heading by framework. Paddle is asked before TensorFlow, which must not be loaded first.
COLUMNS = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "jax": "JAX",
    "paddle": "Paddle",
    "tensorflow": "TensorFlow",
    "mlx": "MLX",
}
_ORDER = sorted(Dtype, key=lambda dtype: dtype.rank)


def cells(framework: str) -> dict[str, str]:
    """The column of a framework.

    Args:
        framework: Its name; the plugin must be installed.

    Returns:
        For each code, the framework's own name for it, or ``"none"``.
    """
    held = get_framework(framework).dtypes
    column = {}
    for dtype in _ORDER:
        # torch.bool, paddle.bool, mlx.core.bool, bool of NumPy, <dtype: 'bool'> of TensorFlow
        native = str(held.get(dtype)).strip("<>'").rpartition("'")[2].rpartition(".")[2]
        column[dtype.value] = f"`{native}`" if dtype in held else "none"
    return column


def main() -> None:
    """Write the table into the page."""
    columns = {name: cells(name) for name in COLUMNS}
    lines = [f"| code | bits | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for dtype in _ORDER:
        row = [columns[name][dtype.value] for name in COLUMNS]
        lines.append(f"| `{dtype.value}` | {dtype.bits} | {' | '.join(row)} |")
    page = PAGE.read_text("utf-8")
    PAGE.write_text(
        re.sub(r"\| code \|.*\n(\|.*\n)+", "\n".join(lines) + "\n", page, count=1), "utf-8"
    )


if __name__ == "__main__":
    main()
