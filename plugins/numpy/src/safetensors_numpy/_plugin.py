"""The hooks of the NumPy plugin. Importing this module does not import NumPy."""

from __future__ import annotations

from safetensors_core import Framework, hookimpl

api_version = 1
native_package = "numpy"


@hookimpl
def safetensors_framework() -> Framework:
    """The NumPy framework; NumPy is imported now."""
    from safetensors_numpy.framework import NumpyFramework

    return NumpyFramework()
