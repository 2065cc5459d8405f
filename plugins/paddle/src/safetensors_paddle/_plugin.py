"""The hooks of the PaddlePaddle plugin. Importing this module does not import PaddlePaddle."""

from __future__ import annotations

from safetensors_core import Framework, hookimpl

api_version = 1
native_package = "paddle"


@hookimpl
def safetensors_framework() -> Framework:
    """The PaddlePaddle framework; PaddlePaddle is imported now."""
    from safetensors_paddle.framework import PaddleFramework

    return PaddleFramework()
