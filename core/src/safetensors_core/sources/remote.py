"""Opening URLs: core's answer for whatever fsspec can reach."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from safetensors_core.errors import InvalidInputError
from safetensors_core.hookspecs import hookimpl
from safetensors_core.sources import local
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.connection import is_known

__all__ = ["safetensors_open_source"]


@hookimpl(trylast=True)
def safetensors_open_source(
    location: str | os.PathLike[str], backend: str, storage_options: Mapping[str, Any]
) -> ByteSource | None:
    """Open a URL.

    Args:
        location: The URL.
        backend: ``"auto"`` or ``"pread"``, which mean the same here.
        storage_options: What fsspec's file system of that URL takes.

    Returns:
        The file, nothing of it read yet; None for a path, and for a URL that nobody knows.

    Raises:
        InvalidInputError: The backend does not fit, or something is not installed.
        OSError: The file system cannot be reached.

    Example:
        >>> safetensors_open_source("model.safetensors", "auto", {}) is None
        True
    """
    if not isinstance(location, str) or not local.is_url(location):
        return None
    scheme, _, rest = location.partition("://")
    scheme = scheme.lower()
    if scheme in {"file", "local"}:
        return local.safetensors_open_source(rest, backend)
    if scheme != "hf" and not is_known(location):
        return None
    if backend not in ["auto", "pread"]:
        raise InvalidInputError(
            f"backend {backend!r} does not fit a remote file: choose 'auto' or 'pread'"
        )
    if scheme == "hf":
        from safetensors_core.sources.hub import open_hub

        return open_hub(location, storage_options)
    if scheme in {"http", "https"}:
        from safetensors_core.sources.http import HttpSource

        return HttpSource(location, storage_options=storage_options)
    return None
