"""The hooks of the TensorFlow plugin. Importing this module does not import TensorFlow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safetensors_core import Framework, hookimpl

if TYPE_CHECKING:
    from safetensors_core.convert import ForeignCheckpoint

api_version = 1
native_package = "tensorflow"


@hookimpl
def safetensors_framework() -> Framework:
    """The TensorFlow framework; TensorFlow is imported now."""
    from safetensors_tensorflow.framework import TensorflowFramework

    return TensorflowFramework()


@hookimpl
def safetensors_read_checkpoint(
    path: str | os.PathLike[str], optimizer: bool
) -> ForeignCheckpoint | None:
    """A checkpoint of Keras or TensorFlow, neither of which is imported; None if it is no such."""
    from safetensors_tensorflow.checkpoints.recognition import read_checkpoint

    return read_checkpoint(os.fsdecode(path), optimizer)
