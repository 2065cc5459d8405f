"""The hooks of the plugin. Importing this module does not import acme."""

from __future__ import annotations

from safetensors_core import Framework, hookimpl

api_version = 1
native_package = "acme"


@hookimpl
def safetensors_framework() -> Framework:
    """The framework; acme is imported now."""
    from safetensors_acme.framework import AcmeFramework

    return AcmeFramework()
