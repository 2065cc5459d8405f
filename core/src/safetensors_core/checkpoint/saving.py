"""Saving checkpoints of one file or of many: `save_checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from safetensors_core.checkpoint.local_folder import LocalFolder
from safetensors_core.checkpoint.remote_folder import RemoteFolder
from safetensors_core.checkpoint.shard_plan import FilePattern, plan_shards
from safetensors_core.entries import Contents, collect_entries, describe_entries
from safetensors_core.prepared_file import WrittenBytes, prepare_file
from safetensors_core.progress import check_progress
from safetensors_core.shards.index import ShardIndex, encode_index
from safetensors_core.sources.local import check_path, is_url, without_scheme

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from safetensors_core.framework import TensorSpec
    from safetensors_core.progress import Progress

__all__ = ["save_checkpoint", "write_checkpoint"]


def save_checkpoint(
    tensors: Mapping[str, Any],
    folder: str | os.PathLike[str],
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
    filename_pattern: str = "model{suffix}.safetensors",
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ShardIndex:
    """Save tensors to a folder, in as many files as their size needs, whole or not at all.

    What fits into one file becomes ``model.safetensors``. Anything larger becomes shards with an
    index, as the Hugging Face libraries write them. The checkpoint that was in the folder stays
    until the new one is complete and, by default, on disk. Then the files that only the old one
    used are removed; no other file is touched.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed. Not changed.
        folder: Path of the folder, made if it is missing; or a URL.
        max_shard_size: Most bytes of tensors per file: a number, or a text such as ``"5GB"``
            (10^9 bytes each) or ``"2GiB"``. A tensor that is larger gets a file of its own.
        metadata: Strings by name to store in the header of every file, and in the index.
        filename_pattern: How the files are called; ``{suffix}`` stands for a shard's number.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the files are on disk. Has no meaning for a URL.
        storage_options: Settings of the storage system, for a URL.
        progress: Called with the bytes of all files that are written and the bytes of all, after
            every part that was; an exception of it ends the save, and the old checkpoint stays.

    Returns:
        Which file holds which tensor. Of a checkpoint of one file, no index is written.

    Raises:
        InvalidInputError: A name, a metadata value, a tensor or an option cannot be used.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.
        OSError: The storage refuses, with `errno` and `filename`.

    Example:
        >>> weights = {"a": np.zeros(1000), "b": np.zeros(1000), "c": np.zeros(1000)}
        >>> save_checkpoint(weights, tmp_path / "model", max_shard_size="16kB").files
        {'model-00001-of-00002.safetensors': ['a', 'b'],
         'model-00002-of-00002.safetensors': ['c']}
    """
    return _write(
        describe_entries(tensors),
        folder,
        max_shard_size,
        metadata,
        filename_pattern,
        alignment=alignment,
        fsync=fsync,
        storage_options=storage_options,
        progress=progress,
    )


def write_checkpoint(
    entries: Iterable[tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]],
    folder: str | os.PathLike[str],
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
    filename_pattern: str = "model{suffix}.safetensors",
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ShardIndex:
    """Save a checkpoint of tensors whose bytes are produced one chunk at a time.

    Args:
        entries: Name, dtype and shape, and a callable that yields the tensor's bytes, as
            `save_stream` takes them.
        folder: Path of the folder, made if it is missing; or a URL.
        max_shard_size: Most bytes of tensors per file.
        metadata: Strings by name to store in the header of every file, and in the index.
        filename_pattern: How the files are called; ``{suffix}`` stands for a shard's number.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the files are on disk. Has no meaning for a URL.
        storage_options: Settings of the storage system, for a URL.
        progress: Called with the bytes of all files that are written and the bytes of all, after
            every part that was; an exception of it ends the save, and the old checkpoint stays.

    Returns:
        Which file holds which tensor. Of a checkpoint of one file, no index is written.

    Raises:
        InvalidInputError: An entry or an option cannot be used, a name occurs twice, or a tensor
            yields more or fewer bytes than its spec says.
        OSError: The storage refuses, with `errno` and `filename`.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> entries = [(name, TensorSpec(Dtype.U8, (3,)), lambda: [b"abc"]) for name in "vw"]
        >>> write_checkpoint(entries, tmp_path, max_shard_size=3).weight_map["w"]
        'model-00002-of-00002.safetensors'
    """
    return _write(
        collect_entries(entries),
        folder,
        max_shard_size,
        metadata,
        filename_pattern,
        alignment=alignment,
        fsync=fsync,
        storage_options=storage_options,
        progress=progress,
    )


def _write(
    contents: Contents,
    folder: str | os.PathLike[str],
    max_shard_size: int | str,
    metadata: Mapping[str, str] | None,
    filename_pattern: str,
    *,
    alignment: int,
    fsync: bool,
    storage_options: Mapping[str, Any] | None,
    progress: Progress | None,
) -> ShardIndex:
    check_path(folder)
    check_progress(progress)
    sizes = {name: spec.nbytes for name, spec in contents.specs.items()}
    plan = plan_shards(sizes, max_shard_size, filename_pattern)
    files = {
        file: prepare_file(contents, metadata, alignment, names)
        for file, names in plan.files.items()
    }
    index = plan.make_index(metadata)
    written = WrittenBytes(progress, sum(file.nbytes for file in files.values()))
    with _opened(folder, plan.pattern, fsync, storage_options) as target:
        for name, prepared in files.items():
            with target.new_file(name) as output:
                prepared.write_to(output, written)
        if plan.is_sharded:
            with target.new_file(plan.pattern.index) as output, output.naming():
                output.write([memoryview(encode_index(index))])
        target.replace(plan.pattern.index if plan.is_sharded else plan.pattern.single)
    return index


def _opened(
    folder: str | os.PathLike[str],
    pattern: FilePattern,
    fsync: bool,
    storage_options: Mapping[str, Any] | None,
) -> LocalFolder | RemoteFolder:
    place = without_scheme(folder)
    if is_url(place):
        return RemoteFolder(os.fspath(place), pattern.single, pattern.index, storage_options)
    return LocalFolder(place, pattern.single, pattern.index, fsync=fsync)
