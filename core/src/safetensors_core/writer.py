"""Writing: `save_file`, `save`, and `save_stream` for what does not fit in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from safetensors_core.entries import Contents, collect_entries, describe_entries
from safetensors_core.prepared_file import WrittenBytes, prepare_file
from safetensors_core.progress import check_progress
from safetensors_core.remote_writing import RemoteFile
from safetensors_core.replacement import ReplacementFile
from safetensors_core.sources.allocation import zero_bytes
from safetensors_core.sources.local import check_path, is_url, without_scheme

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from safetensors_core.framework import TensorSpec
    from safetensors_core.progress import Progress

__all__ = ["save", "save_file", "save_stream", "stream_to_bytes"]


def save_file(
    tensors: Mapping[str, Any],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Save tensors to a file, whole or not at all.

    The file appears under its name when it is complete and, by default, on disk; until then the
    previous one stays as it is. It keeps the previous one's mode and follows symbolic links.
    Tensors that are not contiguous on the host are copied there one at a time. A URL that fsspec
    can write to is a place for files, too.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed. Not changed.
        filename: Path of the file, or a URL.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk. Without it a save is faster, and a
            power cut soon afterwards can leave a file with wrong values. Has no meaning for a
            URL.
        storage_options: Settings of the storage system, for a URL.
        progress: Called with the bytes of the file that are written and the bytes of all, after
            every part that was; an exception of it ends the save, and the previous file stays.

    Raises:
        InvalidInputError: A name, a metadata value, a tensor or `alignment` cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.
        OSError: The file system refuses, with `errno` and `filename`; a RemoteError where
            writing to a URL fails.

    Example:
        >>> save_file({"w": np.zeros((2, 3))}, tmp_path / "model.safetensors", {"step": "100"})
    """
    _write_file(
        describe_entries(tensors),
        filename,
        metadata,
        alignment,
        fsync=fsync,
        storage_options=storage_options,
        progress=progress,
    )


def save(
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
) -> bytes:
    """Save tensors to bytes.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed. Not changed.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.

    Returns:
        The bytes that `save_file` would write.

    Raises:
        InvalidInputError: A name, a metadata value, a tensor or `alignment` cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.

    Example:
        >>> len(save({"w": np.zeros(4)}))
        96
    """
    return _to_bytes(describe_entries(tensors), metadata, alignment)


def save_stream(
    entries: Iterable[tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Save tensors whose bytes are produced one chunk at a time, without holding them.

    All names and specs are consumed first, because the header comes first; then the callable of
    each tensor that is not empty is called once, in the order of the file. Memory stays at one
    chunk, and a chunk's buffer may be filled anew for the next one.

    Args:
        entries: Name, dtype and shape, and a callable that yields the tensor's bytes in C
            order, little-endian, in as many chunks as it likes.
        filename: Path of the file, or a URL.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk. Has no meaning for a URL.
        storage_options: Settings of the storage system, for a URL.
        progress: Called with the bytes of the file that are written and the bytes of all, after
            every part that was; an exception of it ends the save, and the previous file stays.

    Raises:
        InvalidInputError: An entry cannot be saved, occurs twice, or yields more or fewer
            bytes than its spec says.
        OSError: The file system refuses, with `errno` and `filename`; a RemoteError where
            writing to a URL fails.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> rows = TensorSpec(Dtype.F32, (1000, 256))
        >>> path = tmp_path / "rows.safetensors"
        >>> save_stream([("rows", rows, lambda: (bytes(1024) for _ in range(1000)))], path)
        >>> path.stat().st_size
        1024080
    """
    _write_file(
        collect_entries(entries),
        filename,
        metadata,
        alignment,
        fsync=fsync,
        storage_options=storage_options,
        progress=progress,
    )


def stream_to_bytes(
    entries: Iterable[tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
) -> bytes:
    """Save tensors whose bytes are produced one chunk at a time to bytes.

    Args:
        entries: As `save_stream` takes them.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.

    Returns:
        The bytes that `save_stream` would write.

    Raises:
        InvalidInputError: An entry cannot be saved, occurs twice, or yields more or fewer
            bytes than its spec says.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> len(stream_to_bytes([("w", TensorSpec(Dtype.U8, (4,)), lambda: [b"1234"])]))
        68
    """
    return _to_bytes(collect_entries(entries), metadata, alignment)


def _to_bytes(contents: Contents, metadata: Mapping[str, str] | None, alignment: int) -> bytes:
    file = prepare_file(contents, metadata, alignment)
    output = _Memory()
    file.write_to(output, WrittenBytes(None, file.nbytes))
    return output.bytes.getvalue()


class _Memory:
    """An output that becomes one `bytes` object."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()

    def naming(self) -> AbstractContextManager[None]:
        return nullcontext()

    def reserve(self, nbytes: int) -> None:
        # Zeros cost nothing until they are written to, and with nobody else to hold them, BytesIO
        # takes them as its own memory: neither growing nor the end makes a copy.
        self.bytes = io.BytesIO(zero_bytes(nbytes))

    def write(self, views: list[memoryview]) -> None:
        self.bytes.writelines(views)


def _write_file(
    contents: Contents,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None,
    alignment: int,
    *,
    fsync: bool,
    storage_options: Mapping[str, Any] | None,
    progress: Progress | None,
) -> None:
    check_path(filename)
    check_progress(progress)
    file = prepare_file(contents, metadata, alignment)
    with _output(filename, fsync, storage_options) as output:
        file.write_to(output, WrittenBytes(progress, file.nbytes))


def _output(
    filename: str | os.PathLike[str], fsync: bool, storage_options: Mapping[str, Any] | None
) -> ReplacementFile | RemoteFile:
    place = without_scheme(filename)
    if is_url(place):
        return RemoteFile(os.fspath(place), storage_options)
    return ReplacementFile(place, fsync=fsync)
