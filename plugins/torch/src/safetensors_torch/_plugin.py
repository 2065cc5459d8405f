"""The hooks of the PyTorch plugin. Importing this module does not import PyTorch."""

from __future__ import annotations

from safetensors_core import Framework, hookimpl

api_version = 1
native_package = "torch"


@hookimpl
def safetensors_framework() -> Framework:
    """The PyTorch framework; PyTorch is imported now."""
    from safetensors_torch.framework import TorchFramework

    return TorchFramework()
