"""The hooks of the JAX plugin. Importing this module does not import JAX."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safetensors_core import Framework, hookimpl

if TYPE_CHECKING:
    from safetensors_core.convert import ForeignCheckpoint

api_version = 1
native_package = "jax"

_HEAD = 2**16  # bytes


@hookimpl
def safetensors_framework() -> Framework:
    """The JAX framework; JAX is imported now."""
    from safetensors_jax.framework import JaxFramework

    return JaxFramework()


@hookimpl
def safetensors_read_checkpoint(
    path: str | os.PathLike[str], optimizer: bool
) -> ForeignCheckpoint | None:
    """Checkpoints of Flax and of Orbax; neither needs JAX to be read."""
    from safetensors_jax.checkpoints.folders import find_orbax
    from safetensors_jax.checkpoints.message_pack import looks_like_flax

    orbax = find_orbax(path)
    if orbax is not None:
        from safetensors_jax.checkpoints.orbax import read_orbax

        return read_orbax(orbax, optimizer)
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not looks_like_flax(head, named=os.fsdecode(path).lower().endswith(".msgpack")):
        return None
    from safetensors_jax.checkpoints.flax import read_flax

    return read_flax(path, optimizer)
