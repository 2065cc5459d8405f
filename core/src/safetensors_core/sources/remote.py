"""Opening URLs: core's answer for whatever fsspec can reach."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from safetensors_core.errors import InvalidInputError, RemoteError
from safetensors_core.hookspecs import hookimpl
from safetensors_core.sources import local
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.connection import Connection, is_known
from safetensors_core.sources.urls import shown

__all__ = ["list_names", "read_all", "safetensors_open_source"]

_ONE_REQUEST = 16 * 1024 * 1024  # bytes; an index of 100,000 tensors has fewer


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
    if not isinstance(location, str) or not local.is_url(local.without_scheme(location)):
        return None
    scheme = location.partition("://")[0].lower()
    if scheme != "hf" and not is_known(location):
        return None
    if backend not in ["auto", "pread"]:
        raise InvalidInputError(
            f"backend {backend!r} does not fit a remote file: choose 'auto' or 'pread'"
        )
    return _OPENERS.get(scheme, _open_stored)(location, storage_options)


def _open_http(location: str, storage_options: Mapping[str, Any]) -> ByteSource:
    from safetensors_core.sources.http import HttpSource

    return HttpSource(location, storage_options=storage_options)


def _open_hub(location: str, storage_options: Mapping[str, Any]) -> ByteSource:
    from safetensors_core.sources.hub import open_hub

    return open_hub(location, storage_options)


def _open_s3(location: str, storage_options: Mapping[str, Any]) -> ByteSource:
    from safetensors_core.sources.s3 import S3Source

    return S3Source(_connected(location, storage_options), shown(location))


def _open_stored(location: str, storage_options: Mapping[str, Any]) -> ByteSource:
    from safetensors_core.sources.stored import StoredFile

    return StoredFile(_connected(location, storage_options), shown(location))


_OPENERS = {
    "hf": _open_hub,
    "http": _open_http,
    "https": _open_http,
    "s3": _open_s3,
    "s3a": _open_s3,
}


def _connected(location: str, storage_options: Mapping[str, Any]) -> Connection:
    try:
        return Connection(location, storage_options)
    except Exception as error:  # such as an archive that is not there
        raise _failure(error, shown(location)) from error


def _failure(error: Exception, location: str) -> Exception:
    """The error to raise where nothing is tried again."""
    from safetensors_core.sources.attempts import Interrupted
    from safetensors_core.sources.stored import translated

    result = translated(error, location)
    if isinstance(result, Interrupted):
        return RemoteError(result.detail, location)
    return result


def read_all(location: str, storage_options: Mapping[str, Any] | None, limit: int) -> bytes:
    """Read a small remote file whole, up to 16 MiB in one request.

    Args:
        location: The URL.
        storage_options: What fsspec's file system of that URL takes.
        limit: The most bytes that it may have.

    Returns:
        The bytes.

    Raises:
        InvalidInputError: It is larger, which is noticed before its bytes are read; or nobody
            knows the URL.
        OSError: It cannot be read.

    Example:
        >>> read_all("acme://index.json", None, limit=1000)
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: no file system is known for acme://index.json
    """
    from safetensors_core.sources.remote_source import RemoteSource

    source = safetensors_open_source(location, "auto", storage_options or {})
    if source is None:
        raise InvalidInputError(f"no file system is known for {shown(location)}")
    try:
        source.first_read = min(limit + 1, _ONE_REQUEST)
        if isinstance(source, RemoteSource):
            source.largest = limit
        if source.size > limit:
            raise InvalidInputError(
                f"{source.location} has {source.size:,} bytes, and at most {limit:,} are read"
            )
        data = bytearray(source.size)
        source.read_into(0, memoryview(data))
        return bytes(data)
    finally:
        source.close()


def list_names(folder: str, storage_options: Mapping[str, Any] | None) -> list[str] | None:
    """List the files that lie directly in a remote folder.

    Args:
        folder: Its URL.
        storage_options: What fsspec's file system of that URL takes.

    Returns:
        Their names, sorted; None where the storage cannot list, as HTTP cannot.

    Raises:
        InvalidInputError: Nobody knows the URL, or something is not installed.
        OSError: There is no such folder, or it cannot be read.

    Example:
        >>> list_names("https://example.org/model", None) is None
        True
    """
    if folder.partition("://")[0].lower() in {"http", "https"}:
        return None
    location = shown(folder)
    try:
        filesystem, path = Connection(folder, storage_options or {}).get()
        filesystem.invalidate_cache(path)
        entries = filesystem.ls(path, detail=True)
    except NotImplementedError:
        return None
    except Exception as error:
        raise _failure(error, location) from error
    inside = path.strip("/")
    names = [
        entry["name"].strip("/").removeprefix(inside).lstrip("/")
        for entry in entries
        if entry["type"] == "file"
    ]
    # Of a path that is a file, some list the file itself.
    return sorted(name for name in names if name and "/" not in name)
