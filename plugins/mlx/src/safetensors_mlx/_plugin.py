"""The hooks of the MLX plugin. Importing this module does not import MLX."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safetensors_core import Framework, hookimpl

if TYPE_CHECKING:
    from safetensors_core.convert import ForeignCheckpoint

api_version = 1
native_package = "mlx"


@hookimpl
def safetensors_framework() -> Framework:
    """The MLX framework; MLX is imported now."""
    from safetensors_mlx.framework import MlxFramework

    return MlxFramework()


@hookimpl
def safetensors_read_checkpoint(path: str | os.PathLike[str]) -> ForeignCheckpoint | None:
    """An `.npz` or `.npy` with bfloat16; all others are NumPy's. MLX is not imported."""
    from safetensors_numpy.checkpoints import format_of

    form = format_of(path)
    if form not in ("npz", "npy"):
        return None
    from safetensors_mlx.checkpoints import read_bfloat16

    return read_bfloat16(path, archive=form == "npz")
