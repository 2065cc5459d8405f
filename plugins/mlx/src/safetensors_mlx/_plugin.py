"""The hooks of the MLX plugin. Importing this module does not import MLX."""

from __future__ import annotations

from safetensors_core import Framework, hookimpl

api_version = 1
native_package = "mlx"


@hookimpl
def safetensors_framework() -> Framework:
    """The MLX framework; MLX is imported now."""
    from safetensors_mlx.framework import MlxFramework

    return MlxFramework()
