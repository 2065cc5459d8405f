"""The hooks of the PaddlePaddle plugin. Importing this module does not import PaddlePaddle."""

from __future__ import annotations

import sys

from safetensors_core import Framework, PluginError, hookimpl

api_version = 1
native_package = "paddle"


@hookimpl
def safetensors_framework() -> Framework:
    """The PaddlePaddle framework; PaddlePaddle is imported now."""
    if "tensorflow" in sys.modules and "paddle" not in sys.modules:
        # Paddle 3.3 after TensorFlow 2.21 ends the process without a word.
        raise PluginError(
            "Paddle cannot be imported into a process that has imported TensorFlow before it: "
            "import paddle first"
        )
    from safetensors_paddle.framework import PaddleFramework

    return PaddleFramework()
