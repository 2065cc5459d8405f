"""The hooks of the TensorFlow plugin. Importing this module does not import TensorFlow."""

from __future__ import annotations

from safetensors_core import Framework, hookimpl

api_version = 1
native_package = "tensorflow"


@hookimpl
def safetensors_framework() -> Framework:
    """The TensorFlow framework; TensorFlow is imported now."""
    from safetensors_tensorflow.framework import TensorflowFramework

    return TensorflowFramework()
