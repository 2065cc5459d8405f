"""Checkpoints written again as several files, or as one, without loading them."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from safetensors_core.checkpoint.checksums import METADATA_KEY
from safetensors_core.checkpoint.copying import CopyStream
from safetensors_core.checkpoint.saving import write_checkpoint
from safetensors_core.checkpoint.shard_plan import plan_shards
from safetensors_core.errors import CheckpointWarning, InvalidInputError
from safetensors_core.header import MAX_HEADER, TensorInfo
from safetensors_core.plugins import open_source
from safetensors_core.remote_writing import connect
from safetensors_core.shards.index import INDEX_SUFFIX
from safetensors_core.shards.location import Located, find_checkpoint, join
from safetensors_core.shards.shard_set import ShardSet
from safetensors_core.sources import ByteSource, remote
from safetensors_core.sources.local import check_path, is_url, without_scheme
from safetensors_core.sources.urls import shown
from safetensors_core.writer import save_stream

__all__ = ["CopiedCheckpoint", "merge_checkpoint", "split_checkpoint"]

_MOST_NAMED = 10  # keys of metadata in a warning


class CopiedCheckpoint(NamedTuple):
    """What `split_checkpoint` and `merge_checkpoint` have written.

    Attributes:
        files: Paths or URLs of the safetensors files.
        index_location: Path or URL of the index; None where there is none.
        tensors: Number of tensors.
        nbytes: Size of all tensors in bytes.

    Example:
        >>> CopiedCheckpoint(["model.safetensors"], None, 2, 36).nbytes
        36
    """

    files: list[str]
    index_location: str | None
    tensors: int
    nbytes: int


def split_checkpoint(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    max_shard_size: int | str = "5GB",
    filename_pattern: str = "model{suffix}.safetensors",
    *,
    overwrite: bool = False,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CopiedCheckpoint:
    """Write the tensors of a checkpoint to several files and an index.

    Bytes are copied as they are, so every dtype is, and no framework is needed. Memory stays at
    some tens of MiB. The folder gets all files or is left as it was, as `save_checkpoint` does
    it, and the source is never changed.

    Args:
        source: A file, an index, a folder, or the URL of one.
        folder: Path or URL of the folder; made where it is missing.
        max_shard_size: Most bytes of tensors in a file, such as ``"5GB"``. A tensor that is
            larger gets a file of its own.
        filename_pattern: Names of the files, with ``{suffix}`` in it.
        overwrite: Whether to replace a checkpoint that is in the folder already.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings of the storage system, for what is a URL.
        progress: Called with the bytes that were copied so far and with those of all tensors.

    Returns:
        What was written.

    Raises:
        InvalidInputError: The folder holds files to read, or a size or pattern cannot be used.
        FileExistsError: A checkpoint is there already, and `overwrite` is not set.
        CheckpointError: The files to read do not fit together.
        HeaderError: One of them is not a valid safetensors file.
        OSError: A file cannot be read or written.

    Warns:
        CheckpointWarning: The files to read have different metadata, and that of the first is
            taken; or checksums in it, which are left out.

    Example:
        >>> split_checkpoint(model_path, tmp_path / "split", max_shard_size=24).tensors
        2
        >>> sorted(os.listdir(tmp_path / "split"))[:2]
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    target = _writable(folder, storage_options)
    with _opened(source, max_header, storage_options) as original:
        original.check_apart(_places(target, original), target)
        if not overwrite and _holds_checkpoint(target, storage_options):
            raise _already(target, "a checkpoint is in this folder")
        sizes = {name: info.nbytes for name, (_, info) in original.tensors.items()}
        plan = plan_shards(sizes, max_shard_size, filename_pattern)
        order = [name for names in plan.files.values() for name in original.sorted(names)]
        with CopyStream(original.tensors, order, progress) as stream:
            write_checkpoint(
                stream.entries(),
                target,
                max_shard_size,
                original.metadata,
                filename_pattern,
                storage_options=storage_options,
            )
    index = join(target, plan.pattern.index) if plan.is_sharded else None
    files = [join(target, file) for file in plan.files]
    return CopiedCheckpoint(files, index, len(sizes), plan.total_size)


def merge_checkpoint(
    source: str | os.PathLike[str],
    filename: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CopiedCheckpoint:
    """Write the tensors of a checkpoint to one file, whole or not at all.

    Bytes are copied as they are, so every dtype is, and no framework is needed. Memory stays at
    some tens of MiB. Where the original of a split checkpoint had its tensors in the order in
    which `save_file` writes them, the file has the same bytes as the original. The source is
    never changed.

    Args:
        source: A file, an index, a folder, or the URL of one.
        filename: Path or URL of the file.
        overwrite: Whether to replace a file that is there already.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings of the storage system, for what is a URL.
        progress: Called with the bytes that were copied so far and with those of all tensors.

    Returns:
        What was written.

    Raises:
        InvalidInputError: `filename` is one of the files to read.
        FileExistsError: It is there already, and `overwrite` is not set.
        CheckpointError: The files to read do not fit together.
        HeaderError: One of them is not a valid safetensors file.
        OSError: A file cannot be read or written.

    Warns:
        CheckpointWarning: The files to read have different metadata, and that of the first is
            taken; or checksums in it, which are left out.

    Example:
        >>> merge_checkpoint(model_path, tmp_path / "copy.safetensors").nbytes
        36
        >>> (tmp_path / "copy.safetensors").read_bytes() == model_path.read_bytes()
        True
    """
    target = _writable(filename, storage_options)
    with _opened(source, max_header, storage_options) as original:
        original.check_apart([target], target)
        if not overwrite and _exists(target, storage_options):
            raise _already(target, "the file exists")
        order = original.sorted(original.tensors)
        with CopyStream(original.tensors, order, progress) as stream:
            entries = stream.entries()
            save_stream(entries, target, original.metadata, storage_options=storage_options)
        nbytes = sum(info.nbytes for _, info in original.tensors.values())
        return CopiedCheckpoint([target], None, len(order), nbytes)


class _Original(NamedTuple):
    """A checkpoint that is read."""

    located: Located
    tensors: Mapping[str, tuple[ByteSource, TensorInfo]]
    metadata: dict[str, str] | None

    def sorted(self, names: Iterable[str]) -> list[str]:
        """Names in the order in which a file has them that we write."""
        return sorted(names, key=lambda name: (-self.tensors[name][1].dtype.rank, name))

    @property
    def paths(self) -> list[str]:
        """Paths or URLs of all that is read."""
        index = self.located.index_location
        return [*map(self.located.path, self.located.files), *([] if index is None else [index])]

    def check_apart(self, places: Iterable[str], target: str) -> None:
        """Refuse to write where one of the files to read is, by whatever name it goes there."""
        read = {_identity(path): path for path in self.paths}
        for place in places:
            identity = _identity(place)
            if identity is not None and identity in read:
                raise InvalidInputError(
                    f"{shown(target)}: {shown(read[identity])!r} is read from there, and is left "
                    "as it is. Choose another place for the result"
                )


@contextlib.contextmanager
def _opened(
    location: str | os.PathLike[str], max_header: int, storage_options: Mapping[str, Any] | None
) -> Iterator[_Original]:
    located = find_checkpoint(location, storage_options)
    # Not mapped: a file that is cut short under a map ends the process.
    with contextlib.closing(ShardSet(located, "pread", max_header, storage_options)) as shards:
        order = shards.header.tensors  # this also finds names that are in several files
        found = {
            name: (source, info) for source, infos in shards.parts() for name, info in infos.items()
        }
        metadata = shards.metadata()
        if metadata and metadata.pop(METADATA_KEY, None) is not None:
            metadata = metadata or None  # as it was before the checksums came
        _warn_of_losses(shards)
        yield _Original(located, {name: found[name] for name in order}, metadata)


def _warn_of_losses(shards: ShardSet) -> None:
    """Warn of metadata that is lost: the files do not agree, or it is of these files only."""
    metadata = [(shards.source(file).header.metadata or {}).items() for file in shards.files]
    keys = {key for other in metadata for key, _ in other ^ metadata[0]}
    differing = sorted(keys - {METADATA_KEY})
    if differing:
        named = ", ".join(map(repr, differing[:_MOST_NAMED]))
        more = f" and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
        warnings.warn(
            f"{shown(shards.location)}: the files have different metadata; that of "
            f"{shown(shards.files[0])!r} is taken. They differ in {named}{more}",
            CheckpointWarning,
            stacklevel=5,
        )
    if any(key == METADATA_KEY for items in metadata for key, _ in items):
        warnings.warn(
            f"{shown(shards.location)}: the checksums in the metadata are of these files, and are "
            "left out of the copy. 'safetensors-core verify --write-checksums metadata' makes new "
            "ones",
            CheckpointWarning,
            stacklevel=5,
        )


def _writable(target: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> str:
    """A target as path or URL. A URL that nobody can write to is refused before all reading."""
    check_path(target)
    place = os.fsdecode(without_scheme(target))
    if is_url(place):
        connect(place, storage_options)
    return place


def _places(folder: str, original: _Original) -> list[str]:
    """Paths or URLs in a folder at which files to read may be."""
    if is_url(folder):
        return [join(folder, shown(path).rpartition("/")[2]) for path in original.paths]
    # Under whatever name: a link would be followed.
    return [join(folder, name) for name in _names(folder, None)]


def _holds_checkpoint(folder: str, storage_options: Mapping[str, Any] | None) -> bool:
    names = _names(folder, storage_options)
    return any(name.endswith((".safetensors", INDEX_SUFFIX)) for name in names)


def _names(folder: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    """Names of the files in a folder; none where it does not exist."""
    try:
        if is_url(folder):
            return remote.list_names(folder, storage_options) or []
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _exists(target: str, storage_options: Mapping[str, Any] | None) -> bool:
    if not is_url(target):
        return os.path.isfile(target)
    try:
        with contextlib.closing(open_source(target, "pread", storage_options)) as source:
            return source.size >= 0  # only this may be what asks the storage
    except FileNotFoundError:
        return False


def _already(target: str, what: str) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST,
        f"{what}, and is left as it is; pass overwrite=True to replace it",
        shown(target),
    )


def _identity(location: str) -> object:
    """What a location is the same as: device and number of a file; None where there is none."""
    if is_url(location):
        return shown(location)
    try:
        status = os.stat(location)
    except OSError:
        return None
    return status.st_dev, status.st_ino
