"""`ShardSet`: the files of a checkpoint, opened when they are needed."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from safetensors_core.background import Workers
from safetensors_core.errors import (
    CheckpointError,
    CheckpointReason,
    CheckpointWarning,
    ClosedFileError,
    NotASafetensorsRepoError,
    TensorNotFoundError,
)
from safetensors_core.header import MAX_HEADER, Header, TensorInfo
from safetensors_core.plugins import open_source
from safetensors_core.shards.checks import HARMLESS, file_faults, total_size_faults
from safetensors_core.shards.index import INDEX_FILE, SINGLE_FILE, ShardIndex
from safetensors_core.shards.location import Located, find_checkpoint
from safetensors_core.sources import ByteSource, MappedSource
from safetensors_core.sources.urls import shown

__all__ = ["ShardSet", "open_shards"]

_WORKERS = 16  # headers that are read at the same time
_PER_TENSOR = 128  # bytes of an entry beside its name, with room for large numbers
_BESIDE = 256  # bytes of a header beside its entries


class ShardSet:
    """The files of a checkpoint. Each is opened when something of it is asked for.

    With an index, the index says which tensors there are, and every file is held to it when it is
    opened. All methods may be called from several threads at once.

    Args:
        located: Which files.
        backend: As `safe_open` takes it.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings of the storage system.

    Attributes:
        location: What the user gave.
        files: Names of the files, sorted.

    Example:
        >>> from safetensors_core.shards.location import find_checkpoint
        >>> shards = ShardSet(find_checkpoint(model_path))
        >>> list(shards.names)
        ['bias', 'weight']
    """

    def __init__(
        self,
        located: Located,
        backend: str = "auto",
        max_header: int = MAX_HEADER,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.location = located.location
        self.files: Sequence[str] = located.files
        self._located = located
        self._listed = None if located.index is None else located.index.files
        self._open_file: Callable[[str], ByteSource] = partial(
            open_source, backend=backend, storage_options=storage_options
        )
        self._max_header = max_header
        self._sources: dict[str, ByteSource] = {}
        self._locks = {file: threading.Lock() for file in self.files}
        self._header: Header | None = None
        self._weight_map = None if located.index is None else located.index.weight_map
        self._size_checked = False
        self._closed = threading.Event()

    # Its files mean nothing in another process, nor under a second owner.
    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self.location}: an open file cannot be pickled or copied; open it where it is used"
        )

    @property
    def index(self) -> ShardIndex | None:
        """What the index says; None where there is none."""
        return self._located.index

    @property
    def is_mapped(self) -> bool:
        """Whether all files are open and mapped, so that nothing waits for a disk or a network."""
        return len(self._sources) == len(self.files) and all(
            isinstance(source, MappedSource) for source in self._sources.values()
        )

    @property
    def names(self) -> Mapping[str, object]:
        """Names of the tensors, as keys; without an index, all files are opened."""
        return self.header.tensors if self.index is None else self.index.weight_map

    @property
    def weight_map(self) -> Mapping[str, str]:
        """Name of the file by name of the tensor; without an index, all files are opened."""
        if self._weight_map is None:
            self.open_all()
            infos = {file: self.source(file).header.tensors for file in self.files}
            self._weight_map = {name: file for file in self.files for name in infos[file]}
        return self._weight_map

    @property
    def header(self) -> Header:
        """One header for all files, which are opened for it.

        The tensors come in the order of the files and of their bytes in them. Their offsets count
        through the data of all files, and the length is such that `file_nbytes` is the size of all
        files. The metadata is that of the first file.
        """
        if self._header is None:
            if len(self.files) == 1 and self.index is None:
                self._header = self.source(self.files[0]).header
            else:
                self.open_all()
                self._header = self._merged()
        return self._header

    def source(self, file: str) -> ByteSource:
        """One of the files, opened, its header read and held to the index.

        Args:
            file: Its name, one of `files`.

        Returns:
            The same object on every call, until `close`.

        Raises:
            HeaderError: It is not a valid safetensors file.
            CheckpointError: It is not there, or it does not hold what the index says.
            OSError: It cannot be opened or read.
        """
        source = self._sources.get(file)
        if source is None:
            with self._locks[file]:
                source = self._sources.get(file) or self._opened(file)
        return source

    def open_all(
        self,
        progress: Callable[[int, int], object] | None = None,
        files: Iterable[str] | None = None,
    ) -> None:
        """Open files, several at a time.

        Args:
            progress: Called with the number of files that are open and the number of all.
            files: Which; all by default.
        """
        asked_for = self.files if files is None else files
        wanted = [file for file in asked_for if file not in self._sources]
        if len(wanted) < 2:
            for file in wanted:
                self.source(file)
        else:
            self._open_together(wanted, progress)
        if files is None:
            self._check_total_size()

    def locate(self, name: str) -> tuple[ByteSource, TensorInfo]:
        """The file that holds a tensor, and the tensor's entry in its header.

        Args:
            name: The tensor's name.

        Raises:
            TensorNotFoundError: There is no such tensor.
        """
        source = self.source(self._file(name))
        return source, source.header.tensors[name]

    def parts(
        self, names: Iterable[str] | None = None
    ) -> list[tuple[ByteSource, Mapping[str, TensorInfo]]]:
        """The files that hold tensors, each with the entries of those.

        Args:
            names: Names of the tensors; all by default.

        Returns:
            Files in their order, and the entries of each in the order of its bytes.

        Raises:
            TensorNotFoundError: There is no such tensor.
        """
        # In the order asked for, which is that of the bytes or near it: sorting then takes no
        # longer than looking at each, and looks at neighbours.
        groups: dict[str, dict[str, None]] = {}
        if names is None:
            groups = {file: {} for file in self.files}
        else:
            only = self.files[0] if len(self.files) == 1 else None
            known = self.names if only else {}
            for name in names:
                # What is no string may not even be hashable: that is an error with a name.
                file = only if only and type(name) is str and name in known else self._file(name)
                groups.setdefault(file, {})[name] = None
        self.open_all(files=None if names is None else groups)
        parts: list[tuple[ByteSource, Mapping[str, TensorInfo]]] = []
        for file in sorted(groups):
            source = self.source(file)
            infos = source.header.tensors
            if names is None:
                parts.append((source, self._listed_infos(file)))
            elif len(groups[file]) == len(infos):
                parts.append((source, infos))
            else:
                wanted = sorted(groups[file], key=lambda name: infos[name].data_offsets)
                parts.append((source, {name: infos[name] for name in wanted}))
        return parts

    def metadata(self) -> dict[str, str] | None:
        """The metadata of the first file, as a copy; None where it has none."""
        found = self.source(self.files[0]).header.metadata if self.files else None
        return None if found is None else dict(found)

    def close(self) -> None:
        """Close all files. Tensors that were loaded stay valid."""
        self._closed.set()
        for source in list(self._sources.values()):
            source.close()

    def _file(self, name: str) -> str:
        try:
            if len(self.files) == 1 and name in self.names:
                return self.files[0]
            return self.weight_map[name]
        except (KeyError, TypeError):
            raise TensorNotFoundError(str(name), self.location, self.names) from None

    def _listed_infos(self, file: str) -> Mapping[str, TensorInfo]:
        """The tensors of a file that belong to the checkpoint, in the order of the file."""
        infos = self.source(file).header.tensors
        if self._listed is None:
            return infos
        listed = set(self._listed[file])
        return {name: info for name, info in infos.items() if name in listed}

    def _opened(self, file: str) -> ByteSource:
        if self._closed.is_set():
            raise ClosedFileError(f"{self.location} is closed")
        try:
            source = self._open_file(self._located.path(file))
            try:
                if self._listed is not None:
                    expected = _expected(self._listed[file])
                    source.first_read = min(expected, 8 + self._max_header)
                source.read_header(self._max_header)
                self._check(file, source.header)
            except BaseException:
                source.close()
                raise
        except FileNotFoundError as error:  # a remote file is only asked for when it is read
            fault = self._not_found(file)
            if fault is None:
                raise
            raise fault from error
        self._sources[file] = source
        if self._closed.is_set():  # meanwhile, by another thread
            source.close()
        return source

    def _not_found(self, file: str) -> CheckpointError | None:
        if self.index is not None:
            where = self._located.index_location or self.location
            detail = "the index names files that do not exist"
            return CheckpointError(CheckpointReason.MISSING_SHARD, detail, where, [file])
        if self._located.folder:
            return NotASafetensorsRepoError(self.location, [INDEX_FILE, SINGLE_FILE])
        return None  # the user named the file

    def _check(self, file: str, header: Header) -> None:
        """Hold a file to the index."""
        if self.index is None or self._listed is None:
            return
        path = shown(self._located.path(file))
        for fault in file_faults(self.index, self._listed[file], path, header):
            if fault.reason not in HARMLESS:
                raise fault
            _warn(fault)

    def _check_total_size(self) -> None:
        """Compare the size that the index gives with what the files hold."""
        if self.index is None or self._size_checked:
            return
        where = self._located.index_location or self.location
        headers = {file: self.source(file).header for file in self.files}
        for fault in total_size_faults(self.index, where, headers):
            _warn(fault)
        self._size_checked = True

    def _entries(self) -> list[tuple[Header, Mapping[str, TensorInfo]]]:
        """Every file's header, and the entries in it that belong to the checkpoint."""
        return [(self.source(file).header, self._listed_infos(file)) for file in self.files]

    def _merged(self) -> Header:
        entries = self._entries()
        tensors: dict[str, TensorInfo] = {}
        start = 0
        for header, infos in entries:
            for name, info in infos.items():
                begin, end = info.data_offsets
                if name in tensors:
                    detail = "tensors are in several files, and no index says which to take"
                    reason = CheckpointReason.DUPLICATE_TENSOR
                    raise CheckpointError(reason, detail, self.location, [name])
                tensors[name] = TensorInfo(info.dtype, info.shape, (start + begin, start + end))
            start += header.data_nbytes
        length = sum(header.data_start for header, _ in entries) - 8
        return Header(tensors, self.metadata(), length)

    def _open_together(
        self, files: list[str], progress: Callable[[int, int], object] | None
    ) -> None:
        from concurrent.futures import as_completed

        done = len(self.files) - len(files)
        with Workers(self.source, min(_WORKERS, len(files))) as workers:
            for future in as_completed([workers.submit(file) for file in files]):
                future.result()
                done += 1
                if progress is not None:
                    progress(done, len(self.files))


def open_shards(
    filename: str | os.PathLike[str],
    backend: str,
    *,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
) -> ShardSet:
    """Open what a location stands for, as far as that needs no other file than it names.

    Args:
        filename: As `safe_open` takes it.
        backend: As `safe_open` takes it.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL.

    Returns:
        Its files. Without an index all of them are open; with one, none.

    Raises:
        SafetensorError, OSError: As `safe_open` raises them.

    Example:
        >>> open_shards(model_path, "auto").files == [str(model_path)]
        True
    """
    located = find_checkpoint(filename, storage_options)
    shards = ShardSet(located, backend, max_header, storage_options)
    if located.index is None:
        try:
            _ = shards.header
        except BaseException:
            shards.close()
            raise
    return shards


def _expected(names: Iterable[str]) -> int:
    """About how many bytes a header with these tensors has, rather too many than too few."""
    return _BESIDE + sum(_PER_TENSOR + len(name.encode()) for name in names)


def _warn(fault: CheckpointError) -> None:
    warnings.warn(str(fault), CheckpointWarning, stacklevel=6)
