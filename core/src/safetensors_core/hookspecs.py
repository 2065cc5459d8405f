"""The hooks that a plugin may answer, declared for pluggy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from safetensors_core.convert.foreign import ForeignCheckpoint
    from safetensors_core.framework import Framework
    from safetensors_core.sources.base import ByteSource

__all__ = [
    "GROUP",
    "hookimpl",
    "hookspec",
    "safetensors_framework",
    "safetensors_open_source",
    "safetensors_read_checkpoint",
]

#: Entry-point group of plugins, and the project name that pluggy's markers carry.
GROUP = "safetensors_core"

hookspec = pluggy.HookspecMarker(GROUP)

#: Marks a function of a plugin's module as the answer to a hook.
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def safetensors_framework() -> Framework:  # type: ignore[empty-body]
    """Provide a framework. Called only on the plugin that was asked for.

    Returns:
        An instance that may be shared between threads.

    Example:
        >>> @hookimpl
        ... def safetensors_framework():
        ...     from safetensors_acme.framework import AcmeFramework  # imports acme only now
        ...
        ...     return AcmeFramework()
    """


@hookspec(firstresult=True)
def safetensors_open_source(
    location: str | os.PathLike[str], backend: str, storage_options: Mapping[str, Any]
) -> ByteSource | None:
    """Open a location that lies in a storage system of the plugin's own.

    Args:
        location: What the user gave: a path or a URL.
        backend: ``"auto"``, ``"mmap"`` or ``"pread"``; a hint where it does not apply.
        storage_options: What the user gave for the storage system; empty by default. A hook
            may leave out arguments that it does not need.

    Returns:
        A source for the file, or None if the location is not the plugin's.

    Example:
        >>> @hookimpl
        ... def safetensors_open_source(location, backend):
        ...     return AcmeSource(location) if str(location).startswith("acme://") else None
    """


@hookspec(firstresult=True)
def safetensors_read_checkpoint(
    path: str | os.PathLike[str], optimizer: bool
) -> ForeignCheckpoint | Iterator[tuple[str, Any]] | None:
    """Read a foreign checkpoint of the framework, without running code from it.

    Tell formats by their first bytes where they have any: names of files lie. Import the framework
    only once the format is known to be the plugin's.

    Args:
        path: The file or folder; of a checkpoint of many files, one of them.
        optimizer: Whether the state of an optimizer is wanted, too. A hook may leave this out.

    Returns:
        None if the format is not the plugin's. A `ForeignCheckpoint`, which can give its tensors
        in any order; or names and tensors one by one, of which a whole file is then held.

    Raises:
        UnsafeCheckpointError: Reading it would run code, or leave its folder.
        ConversionError: It is damaged, or holds what cannot be converted.

    Example:
        >>> @hookimpl
        ... def safetensors_read_checkpoint(path):
        ...     return iter(acme.read(path).items()) if str(path).endswith(".acme") else None
    """
