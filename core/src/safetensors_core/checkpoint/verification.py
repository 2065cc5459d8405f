"""`verify_checkpoint`: whether the files of a checkpoint are whole and fit together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import msgspec

from safetensors_core.background import Workers
from safetensors_core.checkpoint.findings import Finding, Report, unreadable
from safetensors_core.checkpoint.folder import folder_findings
from safetensors_core.checkpoint.summing import check_sums
from safetensors_core.errors import (
    CheckpointError,
    CheckpointReason,
    HeaderError,
    InvalidInputError,
    NotASafetensorsRepoError,
)
from safetensors_core.header import MAX_HEADER, Header
from safetensors_core.plugins import open_source
from safetensors_core.shards.checks import file_faults, total_size_faults
from safetensors_core.shards.location import Located, find_checkpoint
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.local import is_url
from safetensors_core.sources.urls import shown

__all__ = ["verify_checkpoint"]

_ABOUT_FILES = (
    CheckpointReason.AMBIGUOUS,
    CheckpointReason.OUTSIDE_FOLDER,
    CheckpointReason.MISSING_SHARD,
)

_WORKERS = 16  # headers that are read at the same time


def verify_checkpoint(
    location: str | os.PathLike[str],
    *,
    checksums: bool = True,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Report:
    """Look for everything that is wrong with a checkpoint.

    The header of every file is held to the format, to the size of the file, and to the index. The
    data is read where there are checksums to compare it with, each file once, in pieces.

    Args:
        location: A file, an index, a folder, or the URL of one.
        checksums: Whether to compare the data with the checksums that are there.
        max_header: Longest header of a file to accept, in bytes.
        storage_options: Settings of the storage system.
        progress: Called with the number of bytes that were compared with checksums so far, and
            with that of all; from several threads, one at a time.

    Returns:
        What was looked at and all that was found; a fault is not raised.

    Raises:
        NotASafetensorsRepoError: There is nothing to verify.
        InvalidInputError: No file can be at the location.
        OSError: The location cannot be read at all.

    Example:
        >>> verify_checkpoint(model_path).healthy
        True
        >>> _ = model_path.write_bytes(model_path.read_bytes()[:-1])
        >>> verify_checkpoint(model_path).findings[0].code
        'truncated'
    """
    faults: list[CheckpointError] = []
    located = _located(location, storage_options, faults)
    findings = [found for fault in faults for found in _from_fault(fault)]
    reported = {name for fault in faults for name in fault.names}
    with ExitStack() as closing:
        look = partial(_look, located, max_header, storage_options)
        with Workers(look, _WORKERS) as workers:
            looked = list(workers.map(located.files))
        for one in looked:
            if one.source is not None:
                closing.callback(one.source.close)
            # That a file is missing may be known from looking for it already.
            if one.finding is not None and one.file not in reported:
                findings.append(one.finding)
        sources = {one.file: one.source for one in looked if one.source is not None}
        headers = {file: source.header for file, source in sources.items()}
        findings += _index_findings(located, headers)
        findings += folder_findings(located)
        checked: list[str] = []
        tensors_checked = 0
        if checksums:
            by_path = {located.path(file): source for file, source in sources.items()}
            sums = check_sums(located, by_path, storage_options, progress)
            findings += sums.findings
            checked, tensors_checked = sums.files, sums.tensors
    return Report(
        location=shown(located.location),
        files=len(located.files),
        tensors=sum(len(header.tensors) for header in headers.values()),
        nbytes=sum(source.size for source in sources.values()),
        checked=[shown(path) for path in checked],
        tensors_checked=tensors_checked,
        findings=[msgspec.structs.replace(one, file=shown(one.file)) for one in findings],
    )


def _located(
    location: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
    faults: list[CheckpointError],
) -> Located:
    try:
        return find_checkpoint(location, storage_options, faults.append)
    except NotASafetensorsRepoError:
        raise
    except CheckpointError as fault:
        faults.append(fault)
    # There is no index to go by: the files of the folder can be looked into all the same.
    text = os.fsdecode(location)
    folder = text if is_url(text) or os.path.isdir(text) else os.path.dirname(text) or os.curdir
    names = [] if is_url(text) else sorted(os.listdir(folder))
    files = [name for name in names if name.endswith(".safetensors") and name[0] != "."]
    return Located(text, folder, files)


class _Looked(NamedTuple):
    """A file that was opened, or why it was not."""

    file: str
    source: ByteSource | None
    finding: Finding | None


def _look(
    located: Located, max_header: int, storage_options: Mapping[str, Any] | None, file: str
) -> _Looked:
    path = located.path(file)
    try:
        source = open_source(path, "pread", storage_options)
        try:
            source.read_header(max_header)
        except BaseException:
            source.close()
            raise
    except HeaderError as error:
        finding = Finding("fault", error.reason.value, error.detail, path, error.tensor)
    except FileNotFoundError:
        if located.index is None:
            raise
        detail = "the index names a file that does not exist"
        finding = Finding("fault", CheckpointReason.MISSING_SHARD.value, detail, path)
    except (InvalidInputError, OSError) as error:
        if not located.folder:
            raise
        finding = unreadable(path, error)
    else:
        return _Looked(file, source, None)
    return _Looked(file, None, finding)


def _index_findings(located: Located, headers: Mapping[str, Header]) -> Iterator[Finding]:
    """Hold the files to the index, or to each other."""
    index = located.index
    if index is None:
        seen: dict[str, str] = {}
        for file, header in headers.items():
            for name in header.tensors:
                if name in seen:
                    detail = f"this tensor is also in {seen[name]}"
                    code = CheckpointReason.DUPLICATE_TENSOR.value
                    yield Finding("fault", code, detail, located.path(file), name)
                seen[name] = file
        return
    listed = index.files
    faults = [
        fault
        for file, header in headers.items()
        for fault in file_faults(index, listed[file], located.path(file), header)
    ]
    # Without the header of every file, nobody knows what the size should be.
    if headers.keys() >= listed.keys():
        faults += total_size_faults(index, located.index_location or located.location, headers)
    for fault in faults:
        yield from _from_fault(fault)


def _from_fault(fault: CheckpointError) -> Iterator[Finding]:
    """A fault of an index, once for each tensor or file that it is about."""
    code = fault.reason.value
    about_files = fault.reason in _ABOUT_FILES
    if not fault.names:
        yield Finding("fault", code, fault.detail, fault.location)
    for name in fault.names:
        if about_files:
            yield Finding("fault", code, f"{fault.detail}: {name!r}", fault.location)
        else:
            yield Finding("fault", code, fault.detail, fault.location, name)
