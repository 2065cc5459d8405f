"""The hooks of the PyTorch plugin. Importing this module does not import PyTorch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safetensors_core import Framework, hookimpl

if TYPE_CHECKING:
    from safetensors_core.convert import ForeignCheckpoint

api_version = 1
native_package = "torch"


@hookimpl
def safetensors_framework() -> Framework:
    """The PyTorch framework; PyTorch is imported now."""
    from safetensors_torch.framework import TorchFramework

    return TorchFramework()


@hookimpl
def safetensors_read_checkpoint(
    path: str | os.PathLike[str], optimizer: bool
) -> ForeignCheckpoint | None:
    """Checkpoints that `torch.save` wrote; PyTorch is imported once a file is one."""
    from safetensors_torch.checkpoints import recognise

    kind = recognise(path)
    if kind is None:
        return None
    from safetensors_torch.checkpoints.reading import read_checkpoint

    return read_checkpoint(os.fsdecode(path), kind, optimizer=optimizer)
