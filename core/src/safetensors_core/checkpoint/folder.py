"""What lies in the folder of a checkpoint beside its files: strays, leftovers, checksums."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from safetensors_core.checkpoint.checksums import SUMS_SUFFIX
from safetensors_core.checkpoint.findings import Finding, FindingCode
from safetensors_core.errors import CheckpointError, InvalidInputError
from safetensors_core.header import MAX_HEADER
from safetensors_core.parts import PART_SUFFIX, part_prefix
from safetensors_core.plugins import open_source
from safetensors_core.shards.index import INDEX_SUFFIX, parse_index
from safetensors_core.shards.location import Located
from safetensors_core.sources.local import is_url

__all__ = ["folder_findings", "read_whole", "sums_locations"]

_WEB = ("http://", "https://")


def sums_locations(located: Located) -> dict[str, dict[str, str]]:
    """Where the checksums of a checkpoint's files belong.

    Those of a checkpoint with an index are in one file, which is named for the index and lies
    beside it; without one, each file has its own.

    Args:
        located: The checkpoint.

    Returns:
        By path or URL of a file of checksums: what it shall have sums of, as path or URL by the
        name that it has there.

    Example:
        >>> sums_locations(Located("m", "m", ["a.safetensors"]))
        {'m/a.safetensors.sha256sums': {'a.safetensors': 'm/a.safetensors'}}
    """
    if located.index_location is None:
        paths = [located.path(file) for file in located.files]
        return {_beside(path): {_name(path): path} for path in paths}
    names = {file: located.path(file) for file in located.files}
    names[_name(located.index_location)] = located.index_location
    return {_beside(located.index_location): names}


def read_whole(location: str, storage_options: Mapping[str, Any] | None) -> bytes | None:
    """Read a small file that need not be there.

    Args:
        location: Its path or URL.
        storage_options: Settings of the storage system.

    Returns:
        Its bytes; None where there is no such file.

    Raises:
        OSError: It cannot be read.
        InvalidInputError: It is no regular file, or longer than a header may be.

    Example:
        >>> read_whole(str(tmp_path / "none.sha256sums"), None) is None
        True
    """
    try:
        source = open_source(location, "pread", storage_options)
        with contextlib.closing(source):  # a URL may be asked for no earlier than it is read
            if source.size > MAX_HEADER:
                raise InvalidInputError(f"{location} has more than {MAX_HEADER:,} bytes")
            data = bytearray(source.size)
            source.read_into(0, memoryview(data))
            return bytes(data)
    except FileNotFoundError:
        return None
    except PermissionError:
        # What is not there may not be read, either, say storage systems that do not list files.
        if is_url(location):
            return None
        raise


def folder_findings(located: Located) -> Iterator[Finding]:
    """What lies beside the files of a local checkpoint and may be there by mistake.

    Args:
        located: The checkpoint.

    Yields:
        Warnings about files that no index in the folder names and about what killed saves left;
        faults for checksums of what is gone.

    Example:
        >>> _ = (tmp_path / ".a.safetensors.0123456789abcdef.safetensors-part").write_bytes(b"")
        >>> [finding.code for finding in folder_findings(Located("", str(tmp_path), []))]
        ['leftover']
    """
    if is_url(located.location):
        return
    if located.folder:
        folder, begin = located.folder, "."
    else:
        folder, name = os.path.split(located.location)
        folder, begin = folder or os.curdir, part_prefix(name)
    try:
        names = sorted(os.listdir(folder))
    except PermissionError:  # one may read a file in a folder that one may not list
        return
    if located.folder:
        known = {*located.files, *_indexed(folder, names)}
        for name in names:
            if name.endswith(".safetensors") and not name.startswith(".") and name not in known:
                text = "no index in this folder names this file, so nothing is loaded from it"
                yield _warning(FindingCode.STRAY_FILE, os.path.join(folder, name), text)
        for name in names:
            subject = name.removesuffix(SUMS_SUFFIX)
            if subject != name and _about_checkpoints(subject) and subject not in names:
                path, code = os.path.join(folder, name), FindingCode.INVALID_CHECKSUMS.value
                text = f"these are the checksums of {subject!r}, which is not here"
                yield Finding("fault", code, text, path)
    for name in names:
        if name.startswith(begin) and name.endswith(PART_SUFFIX):
            text = "this is the temporary file of a save that runs now or was killed"
            yield _warning(FindingCode.LEFTOVER, os.path.join(folder, name), text)


def _about_checkpoints(name: str) -> bool:
    return name.endswith((".safetensors", INDEX_SUFFIX))


def _warning(code: FindingCode, path: str, message: str) -> Finding:
    return Finding("warning", code.value, message, path)


def _indexed(folder: str, names: list[str]) -> Iterator[str]:
    """Files that the valid indexes of a folder name."""
    for name in names:
        if name.endswith(INDEX_SUFFIX):
            path = os.path.join(folder, name)
            with contextlib.suppress(CheckpointError, InvalidInputError, OSError):
                yield from parse_index(read_whole(path, None) or b"", path).weight_map.values()


def _beside(location: str) -> str:
    if not location.startswith(_WEB):
        return location + SUMS_SUFFIX
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=parts.path + SUMS_SUFFIX))


def _name(location: str) -> str:
    """Name of the file at a location."""
    if location.startswith(_WEB):
        return unquote(urlsplit(location).path).rpartition("/")[2]
    return location.rpartition("/")[2]
