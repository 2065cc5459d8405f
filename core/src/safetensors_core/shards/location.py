"""What a location stands for: one file, or the files of a checkpoint."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors_core.errors import (
    CheckpointError,
    CheckpointReason,
    InvalidInputError,
    NotASafetensorsRepoError,
)
from safetensors_core.header import MAX_HEADER
from safetensors_core.shards.index import (
    INDEX_FILE,
    INDEX_SUFFIX,
    SINGLE_FILE,
    ShardIndex,
    leaves_folder,
    parse_index,
    raise_fault,
)
from safetensors_core.sources import remote
from safetensors_core.sources.file import open_regular
from safetensors_core.sources.local import check_path, is_url, without_scheme
from safetensors_core.sources.urls import shown, split_path

__all__ = ["Located", "check_inside", "find_checkpoint", "join"]

_OnFault = Callable[[CheckpointError], object]

_SUFFIX = ".safetensors"
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.ASCII)
_WEB = ("http", "https", "hf")  # asked for a file at once: listing costs more, or is impossible


@dataclass(frozen=True)
class Located:
    """The files that a location stands for.

    Attributes:
        location: What the user gave, as errors show it.
        folder: Where the files are; empty where the location is itself the only file.
        files: Their names in the folder, sorted; the location where there is no folder.
        index: What the index says; None where there is none.
        index_location: Path or URL of the index, as errors show it; None where there is none.

    Example:
        >>> find_checkpoint(model_path).files == [str(model_path)]
        True
    """

    location: str
    folder: str
    files: list[str]
    index: ShardIndex | None = None
    index_location: str | None = None

    def path(self, file: str) -> str:
        """Path or URL of one of the files.

        Example:
            >>> Located("model", "model", ["a.safetensors"]).path("a.safetensors")
            'model/a.safetensors'
        """
        return join(self.folder, file) if self.folder else file


def find_checkpoint(
    location: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    on_fault: _OnFault = raise_fault,
) -> Located:
    """Find the files that a location stands for, and read the index if there is one.

    A folder stands for what its index names; without an index, for ``model.safetensors``, or else
    for all its safetensors files. Symbolic links out of a folder are not followed, but for those
    of the cache of Hugging Face into its own store.

    Args:
        location: A file, an index, a folder, or the URL of one.
        storage_options: Settings of the storage system.
        on_fault: Called with a fault that leaves files to go on with: those that may be read.

    Returns:
        The files. That they exist is known of local ones only.

    Raises:
        CheckpointError: The index is not valid, or does not fit to the folder; or the names of
            the files say that some are missing.
        NotASafetensorsRepoError: The folder holds no safetensors files.
        OSError: The index or the folder cannot be read.

    Example:
        >>> _ = (tmp_path / "model.safetensors").write_bytes(model_path.read_bytes())
        >>> find_checkpoint(tmp_path).files
        ['model.safetensors']
    """
    check_path(location)
    text = os.fsdecode(without_scheme(location))
    if is_url(text):
        scheme, _, path = text.partition("://")
        return _remote(f"{scheme.lower()}://{path}", storage_options, on_fault)
    if os.path.isdir(text):
        return _local_folder(text, on_fault)
    if text.endswith(".json"):
        folder, name = os.path.split(text)
        return _indexed_locally(text, folder or os.curdir, name, on_fault)
    return Located(text, "", [text])


def join(folder: str, name: str) -> str:
    """Path or URL of a file in a folder.

    Args:
        folder: Path or URL of the folder.
        name: Name of the file, as an index has it.

    Returns:
        For a URL, its path extended by the name, in which nothing has a meaning for URLs.

    Example:
        >>> join("https://example.org/model/?token=1", "a b.safetensors")
        'https://example.org/model/a%20b.safetensors?token=1'
    """
    if not is_url(folder):
        return os.path.join(folder, name)
    front, path, behind = split_path(folder)
    if front.startswith(("http://", "https://")):  # other URLs are names as they stand
        name = quote(name)
    return f"{front}{path.rstrip('/')}/{name}{behind}"


def _local_folder(folder: str, on_fault: _OnFault) -> Located:
    names = sorted(os.listdir(folder))
    index = _choose_index(names, folder)
    if index is not None:
        return _indexed_locally(folder, folder, index, on_fault)
    files = _inside(folder, _choose_files(names, folder, on_fault), folder, on_fault)
    return Located(folder, folder, files)


def _indexed_locally(location: str, folder: str, name: str, on_fault: _OnFault) -> Located:
    path = os.path.join(folder, name)
    descriptor, size = open_regular(path)
    with open(descriptor, "rb") as file:
        if size > MAX_HEADER:
            detail = f"the index has {size:,} bytes, and at most {MAX_HEADER:,} are read"
            raise CheckpointError(CheckpointReason.INVALID_INDEX, detail, path)
        index = parse_index(file.read(size), path, on_fault)
    files = _below(index)
    missing = [file for file in files if not os.path.exists(os.path.join(folder, file))]
    if missing:
        detail = "the index names files that do not exist"
        on_fault(CheckpointError(CheckpointReason.MISSING_SHARD, detail, path, missing))
    files = _inside(folder, files, path, on_fault)
    return Located(location, folder, files, index, path)


def _below(index: ShardIndex) -> list[str]:
    """The files of an index that may be read."""
    return [file for file in index.files if not leaves_folder(file)]


def check_inside(folder: str, files: list[str], location: str) -> None:
    """Refuse files that a symbolic link moves out of their folder.

    Links of the cache of Hugging Face into its own store are allowed.

    Args:
        folder: Path of the folder.
        files: Names of files in it.
        location: The folder or the index, as errors show it.

    Raises:
        CheckpointError: One leads out; the error names it.

    Example:
        >>> check_inside(str(model_path.parent), [model_path.name], "model")
    """
    _inside(folder, files, location, raise_fault)


def _inside(folder: str, files: list[str], location: str, on_fault: _OnFault) -> list[str]:
    """The files that no symbolic link moves out of the folder."""
    # REPOSITORY/snapshots/REVISION holds links into REPOSITORY/blobs.
    stores = [
        Path(os.path.realpath(above.parent), "blobs")
        for above in Path(os.path.abspath(folder)).parents
        if above.name == "snapshots"
    ]
    allowed = [Path(os.path.realpath(folder)), *stores]
    inside: list[str] = []
    outside: list[str] = []
    for file in files:
        target = Path(os.path.realpath(os.path.join(folder, file)))
        (inside if any(map(target.is_relative_to, allowed)) else outside).append(file)
    if outside:
        detail = "these files are links that lead out of the folder; give them by their own paths"
        on_fault(CheckpointError(CheckpointReason.OUTSIDE_FOLDER, detail, location, outside))
    return inside


def _choose_index(names: list[str], folder: str) -> str | None:
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if INDEX_FILE in indexes:
        return INDEX_FILE
    if len(indexes) > 1:
        detail = "the folder holds several checkpoints; give the index of one of them"
        raise CheckpointError(CheckpointReason.AMBIGUOUS, detail, folder, indexes)
    return indexes[0] if indexes else None


def _choose_files(names: list[str], folder: str, on_fault: _OnFault) -> list[str]:
    if SINGLE_FILE in names:
        return [SINGLE_FILE]
    files = [name for name in names if name.endswith(_SUFFIX) and not name.startswith(".")]
    if not files:
        raise NotASafetensorsRepoError(folder, [INDEX_FILE, SINGLE_FILE, f"*{_SUFFIX}"])
    missing = _missing_numbers(files)
    if missing:
        detail = "there is no index, and by the names of its files the folder lacks others"
        on_fault(CheckpointError(CheckpointReason.MISSING_SHARD, detail, folder, missing))
    return files


def _missing_numbers(files: list[str]) -> list[str]:
    """The files that ``a-00001-of-00002.safetensors`` says there are, and that are not there."""
    found: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for file in files:
        if parts := _NUMBERED.fullmatch(file):
            found[parts["stem"], parts["count"]].add(int(parts["number"]))
    missing = []
    for (stem, count), numbers in found.items():
        first = 0 if 0 in numbers else 1  # some programs count from 0
        missing += [
            f"{stem}-{number:05}-of-{count}{_SUFFIX}"
            for number in range(first, first + int(count))
            if number not in numbers
        ]
    return missing


def _remote(url: str, storage_options: Mapping[str, Any] | None, on_fault: _OnFault) -> Located:
    scheme = url.partition("://")[0]
    _, path, _ = split_path(url)
    file = Located(shown(url), "", [url])
    if path.endswith(_SUFFIX):
        return file
    if path.endswith(".json"):
        return _indexed_remotely(url, _parent(url), url, storage_options, on_fault)
    if scheme in _WEB:
        is_folder = scheme == "hf" or path.endswith("/")
        return _asked_for(url, storage_options, on_fault) if is_folder else file
    names = sorted(_names(url, storage_options))
    if not names:  # then it is a file, or opening it says what is wrong
        return file
    index = _choose_index(names, shown(url))
    if index is not None:
        return _indexed_remotely(url, url, join(url, index), storage_options, on_fault)
    return Located(shown(url), url, _choose_files(names, shown(url), on_fault))


def _asked_for(url: str, storage_options: Mapping[str, Any] | None, on_fault: _OnFault) -> Located:
    """The files of a folder that is not listed: the index is asked for."""
    with contextlib.suppress(FileNotFoundError):
        return _indexed_remotely(url, url, join(url, INDEX_FILE), storage_options, on_fault)
    return Located(shown(url), url, [SINGLE_FILE])


def _names(url: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    """The files in a folder; none where there is no folder, or it belongs to a plugin."""
    with contextlib.suppress(InvalidInputError, FileNotFoundError, NotADirectoryError):
        return remote.list_names(url, storage_options) or []
    return []


def _indexed_remotely(
    location: str,
    folder: str,
    url: str,
    storage_options: Mapping[str, Any] | None,
    on_fault: _OnFault,
) -> Located:
    data = remote.read_all(url, storage_options, MAX_HEADER)
    index = parse_index(data, shown(url), on_fault)
    return Located(shown(location), folder, _below(index), index, shown(url))


def _parent(url: str) -> str:
    """The folder of a file; a query goes with it, as it may be what permits to read."""
    front, path, behind = split_path(url)
    return front + path.rpartition("/")[0] + behind
