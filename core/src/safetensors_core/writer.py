"""Writing: `save_file`, `save`, and `save_stream` for what does not fit in memory."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors_core import collector
from safetensors_core.description import DescribedTensor, describe_tensors
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError
from safetensors_core.framework import Framework, TensorSpec
from safetensors_core.header import TensorInfo
from safetensors_core.layout import check_name, lay_out
from safetensors_core.replacement import ReplacementFile
from safetensors_core.sources.file import MAX_BUFFERS, for_one_call, remaining
from safetensors_core.sources.local import check_path, is_network_file, is_url

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["save", "save_file", "save_stream", "stream_to_bytes"]

_BATCH = 4 * 1024 * 1024  # bytes of small tensors that one system call writes


class _Entry(NamedTuple):
    """One tensor to write: its description, and its bytes once they are asked for."""

    spec: TensorSpec
    chunks: Callable[[], Iterable[Buffer]]


def save_file(
    tensors: Mapping[str, Any],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
) -> None:
    """Save tensors to a file, whole or not at all.

    The file appears under its name when it is complete and, by default, on disk; until then the
    previous one stays as it is. It keeps the previous one's mode and follows symbolic links.
    Tensors that are not contiguous on the host are copied there one at a time.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed. Not changed.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk. Without it a save is faster, and a
            power cut soon afterwards can leave a file with wrong values.

    Raises:
        InvalidInputError: A name, a metadata value, a tensor or `alignment` cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> save_file({"w": np.zeros((2, 3))}, tmp_path / "model.safetensors", {"step": "100"})
    """
    _write_file(_entries(tensors), filename, metadata, alignment, fsync)


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
    return _to_bytes(_entries(tensors), metadata, alignment)


def _to_bytes(
    entries: Mapping[str, _Entry], metadata: Mapping[str, str] | None, alignment: int
) -> bytes:
    beginning, infos = _lay_out(entries, metadata, alignment)
    output = io.BytesIO()
    output.write(beginning)
    for name, info in infos.items():
        for chunk in _checked_chunks(name, info, entries[name]):
            output.write(chunk)
            del chunk  # before the next one is made
    return output.getvalue()


def save_stream(
    entries: Iterable[tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
) -> None:
    """Save tensors whose bytes are produced one chunk at a time, without holding them.

    All names and specs are consumed first, because the header comes first; then the callable of
    each tensor that is not empty is called once, in the order of the file. Memory stays at one
    chunk, and a chunk's buffer may be filled anew for the next one.

    Args:
        entries: Name, dtype and shape, and a callable that yields the tensor's bytes in C
            order, little-endian, in as many chunks as it likes.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.

    Raises:
        InvalidInputError: An entry cannot be saved, occurs twice, or yields more or fewer
            bytes than its spec says.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> rows = TensorSpec(Dtype.F32, (1000, 256))
        >>> path = tmp_path / "rows.safetensors"
        >>> save_stream([("rows", rows, lambda: (bytes(1024) for _ in range(1000)))], path)
        >>> path.stat().st_size
        1024080
    """
    _write_file(_collected(entries), filename, metadata, alignment, fsync)


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
    return _to_bytes(_collected(entries), metadata, alignment)


def _collected(
    entries: Iterable[tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]],
) -> dict[str, _Entry]:
    collected: dict[str, _Entry] = {}
    for entry in entries:
        name, spec, chunks = _checked_entry(entry)
        if name in collected:
            raise InvalidInputError(f"tensor {name!r} occurs twice")
        collected[name] = _Entry(spec, partial(_settled, name, chunks))
    return collected


def _checked_entry(entry: Any) -> tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]:
    try:
        name, spec, chunks = entry
        check_name(name)
        if isinstance(spec.dtype, Dtype) and callable(chunks):
            return name, TensorSpec(spec.dtype, tuple(map(index, spec.shape))), chunks
    except InvalidInputError:
        raise
    except (AttributeError, TypeError, ValueError):
        pass
    raise InvalidInputError(
        f"expected a name, a TensorSpec and a callable that yields bytes, got {entry!r:.200}"
    )


def _settled(name: str, chunks: Callable[[], Iterable[Buffer]]) -> Iterator[Buffer]:
    """Chunks that stay as they are while the next is produced, in the same buffer maybe."""
    for chunk in chunks():
        try:
            view = memoryview(chunk)
        except TypeError:
            raise InvalidInputError(
                f"tensor {name!r}: expected its bytes, got {type(chunk).__name__}"
            ) from None
        if not view.c_contiguous:
            raise InvalidInputError(f"tensor {name!r}: its bytes must be contiguous")
        # A large chunk is written before the next one is asked for.
        yield view if isinstance(chunk, bytes) or view.nbytes >= _BATCH else bytes(view)
        del chunk, view


def _entries(tensors: Mapping[str, Any]) -> dict[str, _Entry]:
    """Describe every tensor and let each framework refuse what cannot be saved together."""
    groups: dict[Framework, dict[str, Any]] = {}
    entries: dict[str, _Entry] = {}
    with collector.paused():
        for name, known in describe_tensors(tensors).items():
            groups.setdefault(known.framework, {})[name] = known.tensor
            entries[name] = _Entry(known.spec, partial(_whole, known))
    for framework, group in groups.items():
        framework.check_saveable(group)
    return entries


def _whole(tensor: DescribedTensor) -> tuple[Buffer]:
    return (tensor.to_buffer(),)


def _lay_out(
    entries: Mapping[str, _Entry], metadata: Mapping[str, str] | None, alignment: int
) -> tuple[bytes, dict[str, TensorInfo]]:
    # A collection walks all that a program has: with TensorFlow loaded, a quarter of a second.
    with collector.paused():
        specs = {name: entry.spec for name, entry in entries.items()}
        return lay_out(specs, metadata, alignment)


def _write_file(
    entries: Mapping[str, _Entry],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None,
    alignment: int,
    fsync: bool,
) -> None:
    check_path(filename)
    if is_url(filename):
        raise InvalidInputError(f"{filename} is a URL: files can be saved to local paths only")
    beginning, infos = _lay_out(entries, metadata, alignment)
    last = next(reversed(infos.values())).data_offsets[1] if infos else 0
    with ReplacementFile(filename, fsync=fsync) as file:
        with file.naming():
            _reserve(file.fd, len(beginning) + last)
        position = 0
        batches = _batches(beginning, infos, entries)
        while batch := _next_batch(batches):
            with file.naming():
                position = _write(file.fd, batch, position)
            batch.clear()  # before the next chunk is made


def _next_batch(batches: Iterator[list[memoryview]]) -> list[memoryview] | None:
    """The next batch, made while the collector does not look for garbage among its parts."""
    with collector.paused():
        return next(batches, None)


def _reserve(fd: int, nbytes: int) -> None:
    """Allocate the file's blocks at once: writing is then faster, and a full disk shows early."""
    # The C library would emulate it there, with one write per block.
    if not hasattr(os, "posix_fallocate") or is_network_file(fd):
        return
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _batches(
    beginning: bytes, infos: Mapping[str, TensorInfo], entries: Mapping[str, _Entry]
) -> Iterator[list[memoryview]]:
    """Chunks in the order of the file, small ones gathered so that few calls write them."""
    batch = [memoryview(beginning)]
    nbytes = len(beginning)
    for name, info in infos.items():
        for chunk in _checked_chunks(name, info, entries[name]):
            batch.append(chunk)
            nbytes += len(chunk)
            del chunk  # only the batch keeps it, and lets go of it
            if nbytes >= _BATCH or len(batch) == MAX_BUFFERS:
                yield batch
                batch, nbytes = [], 0
    if batch:
        yield batch


def _checked_chunks(name: str, info: TensorInfo, entry: _Entry) -> Iterator[memoryview]:
    """A tensor's bytes, which must be as many as its entry in the header says."""
    expected = info.nbytes
    if expected == 0:
        return
    given = 0
    for chunk in entry.chunks():
        view = memoryview(chunk)
        if view.nbytes == 0:
            continue
        given += view.nbytes
        if given > expected:
            break
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        yield view
        del chunk, view
    if given != expected:
        raise InvalidInputError(
            f"tensor {name!r}: {info.dtype} of shape {list(info.shape)} has "
            f"{expected:,} bytes, but {'more' if given > expected else f'only {given:,}'} came"
        )


def _write(fd: int, views: list[memoryview], position: int) -> int:
    """Write views one after the other, also where the system takes fewer bytes at a time."""
    while views:
        count = os.pwritev(fd, for_one_call(views), position)
        if not count:
            raise OSError(errno.EIO, "the system wrote no bytes")
        position += count
        views = remaining(views, count)
    return position
