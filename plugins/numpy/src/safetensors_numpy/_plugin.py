"""The hooks of the NumPy plugin. Importing this module does not import NumPy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safetensors_core import Framework, hookimpl

if TYPE_CHECKING:
    from safetensors_core.convert import ForeignCheckpoint

api_version = 1
native_package = "numpy"


@hookimpl
def safetensors_framework() -> Framework:
    """The NumPy framework; NumPy is imported now."""
    from safetensors_numpy.framework import NumpyFramework

    return NumpyFramework()


@hookimpl
def safetensors_read_checkpoint(path: str | os.PathLike[str]) -> ForeignCheckpoint | None:
    """Arrays of NumPy, ONNX models and GGUF; what reads them is imported once one is found."""
    from safetensors_numpy.checkpoints import read_checkpoint

    return read_checkpoint(path)
