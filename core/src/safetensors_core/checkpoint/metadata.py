"""What a checkpoint holds, read from its headers alone."""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from safetensors_core.errors import InvalidInputError
from safetensors_core.header import MAX_HEADER, Header
from safetensors_core.shards.location import find_checkpoint
from safetensors_core.shards.shard_set import ShardSet
from safetensors_core.sources.hub_location import is_hub, parse_hub
from safetensors_core.sources.local import check_path, is_url

__all__ = ["CheckpointMetadata", "read_metadata"]

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class CheckpointMetadata(msgspec.Struct, frozen=True):
    """What the index and the headers of a checkpoint say.

    Attributes:
        sharded: Whether the tensors are in several files, or in one that an index names.
        metadata: What the index says of the whole; None where there is no index. What a file
            says of itself is in `files`.
        weight_map: Name of the file by name of the tensor.
        files: Header by name of the file.

    Example:
        >>> from safetensors_core import parse_header, save
        >>> header = parse_header(save({}))
        >>> CheckpointMetadata(False, None, {}, {"model.safetensors": header}).total_size
        0
    """

    sharded: bool
    metadata: dict[str, Any] | None
    weight_map: dict[str, str]
    files: dict[str, Header]

    @property
    def parameter_count(self) -> dict[str, int]:
        """Number of elements by code of the dtype.

        Example:
            >>> read_metadata(model_path).parameter_count
            {'F32': 9}
        """
        counts: dict[str, int] = {}
        for header in self.files.values():
            for info in header.tensors.values():
                code = info.dtype.value
                counts[code] = counts.get(code, 0) + math.prod(info.shape)
        return counts

    @property
    def total_size(self) -> int:
        """Size of all tensors together, in bytes.

        Example:
            >>> read_metadata(model_path).total_size
            36
        """
        return sum(header.data_nbytes for header in self.files.values())


def read_metadata(
    location: str | os.PathLike[str],
    *,
    revision: str | None = None,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CheckpointMetadata:
    """Read the names, dtypes and shapes of a checkpoint's tensors without their data.

    No framework is needed. A repository of the Hugging Face Hub takes one request for its index
    and one for each file.

    Args:
        location: A file, an index, a folder, a URL of any of these, or a repository of the
            Hugging Face Hub: ``hf://org/name``, or ``org/name`` where no local path has that name.
        revision: Branch, tag or commit of a repository of the Hub; its main branch by default.
        max_header: Longest header of a file to accept, in bytes.
        storage_options: Settings of the storage system, as its plugin or fsspec names them. For
            the Hub: ``token``, ``endpoint``.
        progress: Called with the number of headers that are read, and the number of all.

    Returns:
        What the index and the headers say.

    Raises:
        NotASafetensorsRepoError: No safetensors file is where a checkpoint should be.
        CheckpointError: The index is not valid, or does not fit the files.
        HeaderError: A file is not a valid safetensors file; the error names it.
        InvalidInputError: There is a revision, but this is no repository of the Hub.
        OSError: Something cannot be found, opened or read.

    Example:
        >>> metadata = read_metadata(model_path)
        >>> metadata.weight_map
        {'bias': 'example.safetensors', 'weight': 'example.safetensors'}
        >>> metadata.files["example.safetensors"].tensors["weight"].shape
        (2, 3)
    """
    located = find_checkpoint(_in_full(location, revision), storage_options)
    shards = ShardSet(located, "pread", max_header, storage_options)
    try:
        shards.open_all(progress)
        headers = [shards.source(file).header for file in shards.files]
        _ = shards.names  # refuses tensors that are in several files, if no index says which
    finally:
        shards.close()
    names = located.files if located.folder else [_base_name(located.location)]
    files = dict(zip(names, headers, strict=True))
    if located.index is not None:
        return CheckpointMetadata(True, located.index.metadata, located.index.weight_map, files)
    weight_map = {tensor: name for name, header in files.items() for tensor in header.tensors}
    return CheckpointMetadata(len(files) > 1, None, weight_map, files)


def _base_name(location: str) -> str:
    """The name of a file without where it is."""
    if not is_url(location):
        return os.path.basename(location)
    is_web = location.startswith(("http://", "https://"))  # other URLs are names as they stand
    path = unquote(urlsplit(location).path) if is_web else location
    return path.rpartition("/")[2]


def _in_full(location: str | os.PathLike[str], revision: str | None) -> str | os.PathLike[str]:
    """The location, in full where it is short for a repository of the Hub."""
    check_path(location)
    if _is_repository(location):
        if importlib.util.find_spec("huggingface_hub") is None:
            text = (
                "no file or folder has this name. If a repository of the Hugging Face Hub is meant"
            )
            raise FileNotFoundError(
                errno.ENOENT, f"{text}: pip install huggingface_hub", os.fspath(location)
            )
        location = f"hf://{location}"
    if revision is None:
        return location
    if not is_hub(location):
        raise InvalidInputError(
            f"revision={revision!r} is for repositories of the Hugging Face Hub, and "
            f"{os.fspath(location)!r} is none"
        )
    return parse_hub(location).at(revision).url


def _is_repository(location: str | os.PathLike[str]) -> bool:
    return (
        isinstance(location, str)
        and not is_url(location)
        and _REPOSITORY.fullmatch(location) is not None
        and not location.endswith((".safetensors", ".json"))
        and not os.path.lexists(location)
        # Without the prefixes of datasets and other kinds, which no organisation can have.
        and parse_hub(f"hf://{location}").repository == location
    )
