"""`load_into`: the content of a file for tensors that exist already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from safetensors_core import collector
from safetensors_core.description import DescribedTensors, describe_tensors
from safetensors_core.errors import (
    InvalidInputError,
    RemoteError,
    SafetensorError,
    UnsupportedDtypeError,
)
from safetensors_core.float_dtypes import FLOATS
from safetensors_core.framework import Framework
from safetensors_core.header import MAX_HEADER, TensorInfo
from safetensors_core.loading import WINDOW, cast_tensors, load_part
from safetensors_core.open_file import Backend
from safetensors_core.progress import Progress, check_progress
from safetensors_core.read_ahead import Part, ReadAhead, windows
from safetensors_core.shards.shard_set import open_shards
from safetensors_core.shared_memory import (
    check_entries,
    find_covered,
    find_overlapping,
    find_repeated,
    find_shared,
)
from safetensors_core.state_dict import match_state_dict
from safetensors_core.threads import worker_count

__all__ = ["load_into"]

_PARTLY = "the tensors may be filled in part: load into them again before they are used"


def load_into(
    tensors: Mapping[str, Any],
    filename: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    strict: bool = True,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Fill tensors that exist already with the content of a file or a checkpoint.

    There is no second copy: where a tensor lies in the host's memory as the file has it, the file
    is read straight into it. Others, which are strided, on another device, or of another
    floating-point dtype, are filled by way of a few at a time. Names, shapes and dtypes are
    compared before the first byte is written.

    Of tensors that share memory, the file may have one, which fills them all, or several with the
    same values.

    Args:
        tensors: Tensors by name, of any installed framework that can change its tensors, also
            mixed: the ``state_dict()`` of a model, say.
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one.
        backend: ``"auto"`` and ``"pread"`` read local files into the tensors, ``"mmap"`` copies
            from a map of them.
        strict: Whether missing and unexpected names are an error.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so,
            from the thread that called this function. An exception of it ends the loading.

    Returns:
        Names of `tensors` that the file lacks, and names of the file that `tensors` lacks, each
        sorted. A name that shares all of its memory with one that is filled is not missing.

    Raises:
        StateDictError: Names or shapes do not match. Nothing was written.
        InvalidInputError: A dtype does not fit, or a tensor cannot be filled. Nothing was written.
        SharedMemoryError: The file has different values for tensors that share memory, or values
            for tensors that share a part of it; or a view with gaps overlaps another array of
            NumPy, or tensor of Paddle. Nothing was written.
        HeaderError: A file is not a valid safetensors file. Nothing was written.
        OSError: The file cannot be opened or read. Once it was opened, some tensors may be
            filled, and others in part: the error says so.

    Example:
        >>> array = np.ones((2, 3), np.float32)
        >>> load_into({"weight": array}, model_path, strict=False)
        ([], ['bias'])
        >>> array
        array([[0., 1., 2.],
               [3., 4., 5.]], dtype=float32)
    """
    check_progress(progress)
    worker_count()  # a wrong setting is no reason to leave anything half-filled
    described = describe_tensors(tensors)
    for framework, group in described.groups.items():
        framework.check_fillable(group)
    shards = open_shards(
        filename,
        "pread" if backend == "auto" else backend,
        max_header=max_header,
        storage_options=storage_options,
    )
    with contextlib.closing(shards):
        with collector.paused():
            names = shards.names
            parts = shards.parts([name for name in tensors if name in names])
            infos = {name: info for _, part in parts for name, info in part.items()}
            groups = find_shared(described)
            covered = find_covered(described, groups, infos)
            # Of a tensor that is not wanted, nobody asks for the shape.
            result = match_state_dict(
                shards.location,
                {name: infos[name].shape if name in infos else () for name in names},
                {name: spec.shape for name, spec in described.specs.items()},
                strict=strict,
                covered=covered,
            )
            for source, part in parts:
                _check_dtypes(described, part, source.location)
            lent = _lent(described, infos)
            groups += find_overlapping(lent)
            # The file can be read as it is into those of its own dtype.
            specs = described.specs
            memory = {
                name: view for name, view in lent.items() if infos[name].dtype is specs[name].dtype
            }
            repeated = find_repeated(described, groups, parts)
            parts = [
                (source, {name: info for name, info in part.items() if name not in repeated})
                for source, part in parts
            ]
            check_entries(shards.location, groups, infos.keys() - repeated)
        try:
            _fill(described, parts, memory, progress)
        except (OSError, SafetensorError) as error:
            _note(error)
            raise
    return result


def _lent(described: DescribedTensors, infos: Mapping[str, TensorInfo]) -> dict[str, memoryview]:
    """The own memory of tensors of a file that lie in the host's as in a file."""
    found: dict[str, memoryview] = {}
    for framework, tensors in described.groups.items():
        names = [name for name in tensors if name in infos]
        views = framework.memories([tensors[name] for name in names])
        # There is nothing to be read into empty ones.
        found.update((name, view) for name, view in zip(names, views, strict=True) if view)
    return found


def _check_dtypes(
    described: DescribedTensors, infos: Mapping[str, TensorInfo], location: str
) -> None:
    """Refuse what would not be the same numbers, or is nothing that the framework has."""
    for name, info in infos.items():
        wanted = described.specs[name].dtype
        if info.dtype is wanted:
            continue
        if not {info.dtype, wanted} <= FLOATS:
            raise InvalidInputError(
                f"{location}: tensor {name!r} is {info.dtype} in the file and {wanted} here, and "
                "only floating-point dtypes are converted: give a tensor of the file's dtype"
            )
        try:
            described.framework(name).check_dtypes({name: info})
        except UnsupportedDtypeError as error:
            error.location = location
            raise


def _fill(
    described: DescribedTensors,
    parts: Iterable[Part],
    memory: Mapping[str, memoryview],
    progress: Progress | None,
) -> None:
    done, total = 0, sum(info.nbytes for _, infos in parts for info in infos.values())
    for nbytes in _filled(described, parts, memory, WINDOW if progress else total):
        done += nbytes
        if progress is not None and nbytes:
            progress(done, total)


def _filled(
    described: DescribedTensors, parts: Iterable[Part], memory: Mapping[str, memoryview], step: int
) -> Iterator[int]:
    """Fill tensors step by step; gives the bytes of each step."""
    jobs: list[Part] = []
    makers: list[tuple[Framework, Any]] = []
    for source, infos in parts:
        others: dict[tuple[Framework, Any], dict[str, TensorInfo]] = {}
        with collector.paused():
            start = source.header.data_start
            batches = _batches(
                [
                    (start + info.data_offsets[0], memory[name])
                    for name, info in infos.items()
                    if name in memory
                ],
                step,
            )
        for name, info in infos.items():
            if name not in memory:
                framework = described.framework(name)
                maker = framework, framework.device_of(described.tensors[name])
                others.setdefault(maker, {})[name] = info
        for batch in batches:
            source.read_ranges(batch)
            yield sum(view.nbytes for _, view in batch)
        for maker, group in others.items():
            cut = windows([(source, group)], WINDOW)
            jobs += cut
            makers += [maker] * len(cut)
    with ReadAhead(jobs, ahead=1) as ready:
        for (source, infos), (framework, device) in zip(ready, makers, strict=True):
            loaded = load_part(framework, source, infos, device)
            dtypes = {name: described.specs[name].dtype for name in infos}
            cast_tensors(framework, loaded, infos, dtypes, source.location)
            for name in infos:
                framework.assign(described.tensors[name], loaded.pop(name))
            yield sum(info.nbytes for info in infos.values())


def _batches(
    ranges: list[tuple[int, memoryview]], nbytes: int
) -> list[list[tuple[int, memoryview]]]:
    """Ranges in groups of so many bytes, those that do not fit cut in pieces."""
    if sum(len(view) for _, view in ranges) <= nbytes:
        return [ranges] if ranges else []
    batches: list[list[tuple[int, memoryview]]] = [[]]
    room = nbytes
    for offset, view in ranges:
        begin = 0
        while begin < len(view):
            if not room:
                batches.append([])
                room = nbytes
            piece = view if not begin and len(view) <= room else view[begin : begin + room]
            batches[-1].append((offset + begin, piece))
            begin += len(piece)
            room -= len(piece)
    return batches


def _note(error: Exception) -> None:
    """Let an error say in what state the tensors are."""
    if isinstance(error, RemoteError):
        error.detail += f". {_PARTLY.capitalize()}"
    elif isinstance(error, OSError) and error.strerror:
        error.strerror += f" ({_PARTLY})"
    elif len(error.args) == 1:
        error.args = (f"{error}. {_PARTLY.capitalize()}",)
