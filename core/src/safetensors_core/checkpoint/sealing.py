"""`write_checksums`: SHA-256 sums beside the files of a checkpoint, or in their metadata."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Literal

from safetensors_core.checkpoint.checksums import encode_sums, metadata_with_sums
from safetensors_core.checkpoint.folder import read_whole, sums_locations
from safetensors_core.checkpoint.summing import sum_files
from safetensors_core.errors import InvalidInputError
from safetensors_core.framework import TensorSpec
from safetensors_core.header import MAX_HEADER, TensorInfo
from safetensors_core.plugins import open_source
from safetensors_core.replacement import ReplacementFile
from safetensors_core.shards.location import Located, find_checkpoint
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.local import is_url
from safetensors_core.writer import save_stream

__all__ = ["write_checksums"]

_CHUNK = 8 * 1024 * 1024  # bytes that are copied at a time
_MAX_ALIGNMENT = 1 << 20


def write_checksums(
    location: str | os.PathLike[str],
    where: Literal["beside", "metadata"],
    *,
    max_header: int = MAX_HEADER,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[str]:
    """Write SHA-256 sums of the files of a checkpoint as they are now.

    ``"beside"`` writes one text for ``sha256sum -c``, named for the index or for the file.
    ``"metadata"`` writes each file again, whole or not at all, with sums of its tensors in its
    metadata; sums that are beside the files are written again too. The tensors' bytes stay what
    they are. Nothing is verified here: call `verify_checkpoint` first.

    Args:
        location: A local file, index or folder.
        where: ``"beside"`` or ``"metadata"``.
        max_header: Longest header of a file to accept, in bytes.
        progress: Called with the number of bytes that were summed up so far, and that of all.

    Returns:
        Paths of the files that were written.

    Raises:
        InvalidInputError: The location is a URL, or sums shall go into a file that is a link.
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to the folder.
        OSError: A file cannot be read or written.

    Example:
        >>> [path] = write_checksums(model_path, "beside")
        >>> path.endswith("example.safetensors.sha256sums")
        True
    """
    if is_url(location):
        raise InvalidInputError(f"{location} is a URL: checksums can be written to local files")
    if where not in ("beside", "metadata"):
        raise InvalidInputError(
            f"checksums go 'beside' the files or into 'metadata', not {where!r}"
        )
    located = find_checkpoint(location)
    links = [path for path in map(located.path, located.files) if os.path.islink(path)]
    if links and where == "metadata":
        raise InvalidInputError(
            f"{links[0]} is a symbolic link, and the file that it leads to may belong to other "
            "checkpoints too: write the checksums beside it, or into a copy"
        )
    with ExitStack() as closing:
        sources: dict[str, ByteSource] = {}
        for file in located.files:
            path = located.path(file)
            sources[path] = open_source(path, "pread")
            closing.callback(sources[path].close)
            sources[path].read_header(max_header)
        if where == "beside":
            return _write_beside(located, sources, progress)
        written = _write_inside(sources, progress)
    # What stands beside the files is about files that are no more.
    stale = any(os.path.lexists(place) for place in sums_locations(located))
    return [*written, *write_checksums(location, "beside")] if stale else written


def _write_beside(
    located: Located,
    sources: dict[str, ByteSource],
    progress: Callable[[int, int], object],
) -> list[str]:
    found = sum_files(sources, progress)
    written = []
    for place, paths in sums_locations(located).items():
        sums: dict[str, str] = {}
        for name, path in paths.items():
            of_file = found.get(path)
            if isinstance(of_file, OSError):
                raise of_file
            if of_file is None:
                sums[name] = hashlib.sha256(read_whole(path, None) or b"").hexdigest()
            else:
                sums[name] = of_file.file
        with ReplacementFile(place, fsync=True) as file:
            file.write([memoryview(os.fsencode(encode_sums(sums)))])
        written.append(place)
    return written


def _write_inside(
    sources: dict[str, ByteSource],
    progress: Callable[[int, int], object],
) -> list[str]:
    for path, sums in sum_files(sources, progress).items():
        if isinstance(sums, OSError):
            raise sums
        source = sources[path]
        header = source.header
        entries = [
            (name, TensorSpec(info.dtype, info.shape), partial(_chunks, source, info))
            for name, info in header.tensors.items()
        ]
        # As the file was: to the largest power of two at which its data begins.
        alignment = min(max(header.data_start & -header.data_start, 8), _MAX_ALIGNMENT)
        metadata = metadata_with_sums(header, sums.tensors)
        save_stream(entries, path, metadata, alignment=alignment)
    return list(sources)


def _chunks(source: ByteSource, info: TensorInfo) -> Iterator[memoryview]:
    begin, end = (source.header.data_start + offset for offset in info.data_offsets)
    for offset in range(begin, end, _CHUNK):
        chunk = memoryview(bytearray(min(_CHUNK, end - offset)))
        source.read_into(offset, chunk)
        yield chunk
