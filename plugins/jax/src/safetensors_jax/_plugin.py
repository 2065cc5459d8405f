"""The hooks of the JAX plugin. Importing this module does not import JAX."""

from __future__ import annotations

from safetensors_core import Framework, hookimpl

api_version = 1
native_package = "jax"


@hookimpl
def safetensors_framework() -> Framework:
    """The JAX framework; JAX is imported now."""
    from safetensors_jax.framework import JaxFramework

    return JaxFramework()
