"""The hook of the plugin. Core calls it for every file that is opened, so it is quick."""

from __future__ import annotations

import os

from safetensors_core import ByteSource, hookimpl

api_version = 1


@hookimpl
def safetensors_open_source(location: str | os.PathLike[str]) -> ByteSource | None:
    """Open a member of a zip archive; None for what is no ``zip://`` URL."""
    if not isinstance(location, str) or not location.startswith("zip://"):
        return None
    from safetensors_zipstore.source import ZipSource

    return ZipSource(location)
