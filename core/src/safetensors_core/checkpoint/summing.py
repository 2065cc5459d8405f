"""Comparing files with the checksums that are beside them and in their metadata."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from safetensors_core.background import Workers
from safetensors_core.checkpoint.checksums import (
    FileSums,
    TensorSums,
    compute_sums,
    header_matches,
    parse_sums,
    sums_in_metadata,
)
from safetensors_core.checkpoint.findings import Finding, FindingCode, unreadable
from safetensors_core.checkpoint.folder import read_whole, sums_locations
from safetensors_core.errors import InvalidInputError
from safetensors_core.header import Header
from safetensors_core.shards.location import Located
from safetensors_core.sources.base import ByteSource

__all__ = ["Summed", "check_sums", "sum_files"]

_WORKERS = 4  # files that are read at the same time


class Summed(NamedTuple):
    """What comparing with checksums gave.

    Attributes:
        files: Files of which every byte was compared.
        tensors: How many tensors were compared.
        findings: What does not match.

    Example:
        >>> Summed([], 0, []).tensors
        0
    """

    files: list[str]
    tensors: int
    findings: list[Finding]


def check_sums(
    located: Located,
    sources: Mapping[str, ByteSource],
    storage_options: Mapping[str, Any] | None,
    progress: Callable[[int, int], object],
) -> Summed:
    """Compare files with the checksums that there are; files without any are not read.

    Args:
        located: The checkpoint.
        sources: Its files that are valid, by path or URL, their headers read.
        storage_options: Settings of the storage system.
        progress: Called with the number of bytes read so far, and with that of all.

    Returns:
        What was compared, and what does not match.

    Example:
        >>> check_sums(Located("m", "m", []), {}, None, print)
        Summed(files=[], tensors=0, findings=[])
    """
    findings: list[Finding] = []
    of_files: dict[str, str] = {}
    for place, paths in sums_locations(located).items():
        of_files |= _sums_beside(place, paths, storage_options, findings)
    of_tensors = {
        path: inside
        for path, source in sources.items()
        if (inside := _sums_inside(path, source.header, findings)) is not None
    }
    wanted = of_files.keys() | of_tensors.keys()
    found = sum_files({p: s for p, s in sources.items() if p in wanted}, progress)
    index = located.index_location
    if index in of_files:
        data = read_whole(index, storage_options) or b""
        found[index] = FileSums(hashlib.sha256(data).hexdigest(), {})
    checked = Summed([], 0, findings)
    for path, sums in found.items():
        if isinstance(sums, Exception):
            findings.append(unreadable(path, sums))
            continue
        if path in of_files:
            checked.files.append(path)
            if of_files[path] != sums.file:
                text = "the file is not the one that its SHA-256 sum was made of"
                findings.append(_fault(FindingCode.CHECKSUM_MISMATCH, text, path))
        if path in of_tensors:
            findings += _compared(path, sources[path].header, of_tensors[path], sums.tensors)
    tensors = sum(len(sources[path].header.tensors) for path in of_tensors)
    return checked._replace(tensors=tensors)


def sum_files(
    sources: Mapping[str, ByteSource], progress: Callable[[int, int], object]
) -> dict[str, FileSums | OSError]:
    """Read files, several at a time, and sum them up.

    Args:
        sources: Files by path or URL, their headers read.
        progress: Called with the number of bytes read so far, and with that of all.

    Returns:
        The sums of each file, or why it cannot be read.

    Example:
        >>> sum_files({}, print)
        {}
    """
    reading = _Reading(sum(source.size for source in sources.values()), progress)
    with Workers(reading.sums, _WORKERS) as workers:
        try:
            return dict(zip(sources, workers.map(sources.values()), strict=True))
        except BaseException:
            reading.stopped = True
            raise


class _Reading:
    """Files that are being read by several threads."""

    def __init__(self, total: int, progress: Callable[[int, int], object]) -> None:
        self.stopped = False
        self._done = 0
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()

    def sums(self, source: ByteSource) -> FileSums | OSError:
        try:
            return compute_sums(source, self._advance)
        except OSError as error:
            return error

    def _advance(self, nbytes: int) -> None:
        if self.stopped:  # another thread failed, or the user stopped it all
            raise CancelledError
        with self._lock:
            self._done += nbytes
            self._progress(self._done, self._total)


def _sums_beside(
    place: str,
    paths: Mapping[str, str],
    storage_options: Mapping[str, Any] | None,
    findings: list[Finding],
) -> dict[str, str]:
    """The sums of a checkpoint's files, by path or URL, from where they are if there are any."""
    try:
        data = read_whole(place, storage_options)
        if data is None:
            return {}
        sums = parse_sums(os.fsdecode(data))
    except OSError as error:
        findings.append(unreadable(place, error))
        return {}
    except InvalidInputError as error:
        findings.append(_fault(FindingCode.INVALID_CHECKSUMS, str(error), place))
        return {}
    for name in sorted(paths.keys() - sums.keys()):
        message = f"there is no sum of {name!r} here: write the checksums again"
        findings.append(_fault(FindingCode.MISSING_CHECKSUM, message, place))
    for name in sorted(sums.keys() - paths.keys()):
        if name.endswith(".safetensors"):
            message = f"there is a sum of {name!r} here, which is no file of the checkpoint"
            findings.append(_fault(FindingCode.INVALID_CHECKSUMS, message, place))
    return {path: sums[name] for name, path in paths.items() if name in sums}


def _sums_inside(path: str, header: Header, findings: list[Finding]) -> TensorSums | None:
    """The sums that a file keeps of its tensors, if it does."""
    try:
        return sums_in_metadata(header)
    except InvalidInputError as error:
        findings.append(_fault(FindingCode.INVALID_CHECKSUMS, str(error), path))
        return None


def _compared(
    path: str, header: Header, expected: TensorSums, found: Mapping[str, str]
) -> Iterator[Finding]:
    """Compare a file with the sums in its metadata."""
    if not header_matches(header, expected):
        text = "names, dtypes, shapes, metadata or sums are not those that were summed up"
        yield _fault(FindingCode.CHECKSUM_MISMATCH, text, path)
    for name, digest in found.items():
        if name not in expected.tensors:
            text = "the metadata has no SHA-256 sum of this tensor"
            yield _fault(FindingCode.MISSING_CHECKSUM, text, path, name)
        elif expected.tensors[name] != digest:
            text = "the bytes are not those that the SHA-256 sum in the metadata was made of"
            yield _fault(FindingCode.CHECKSUM_MISMATCH, text, path, name)


def _fault(code: FindingCode, message: str, path: str, tensor: str | None = None) -> Finding:
    return Finding("fault", code.value, message, path, tensor)
