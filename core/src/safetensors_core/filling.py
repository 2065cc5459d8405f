"""`load_into`: the content of a file for tensors that exist already."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from safetensors_core import collector
from safetensors_core.description import DescribedTensors, describe_tensors
from safetensors_core.errors import (
    InvalidInputError,
    RemoteError,
    SafetensorError,
    SharedMemoryError,
    UnsupportedDtypeError,
)
from safetensors_core.float_dtypes import FLOATS
from safetensors_core.framework import Framework
from safetensors_core.header import MAX_HEADER, TensorInfo
from safetensors_core.loading import WINDOW, cast_tensors, load_part
from safetensors_core.open_file import Backend
from safetensors_core.progress import Progress
from safetensors_core.read_ahead import Part, ReadAhead, windows
from safetensors_core.shards.shard_set import open_shards
from safetensors_core.sources import ByteSource
from safetensors_core.state_dict import match_state_dict

__all__ = ["load_into"]

_PIECE = 16 * 1024 * 1024  # bytes of two tensors that are compared at a time
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
            for tensors that share a part of it. Nothing was written.
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
            groups = _shared(described)
            # Of a tensor that is not wanted, nobody asks for the shape.
            result = match_state_dict(
                shards.location,
                {name: infos[name].shape if name in infos else () for name in names},
                {name: spec.shape for name, spec in described.specs.items()},
                strict=strict,
                covered=_covered(described, groups, infos),
            )
            for source, part in parts:
                _check_dtypes(described, part, source.location)
            memory = _memory(described, infos)
            groups += _overlapping(memory)
            repeated = _repeated(described, groups, parts)
            parts = [
                (source, {name: info for name, info in part.items() if name not in repeated})
                for source, part in parts
            ]
            _check_overlaps(shards.location, groups, infos.keys() - repeated)
        try:
            _fill(described, parts, memory, progress)
        except (OSError, SafetensorError) as error:
            _note(error)
            raise
    return result


def _framework(described: DescribedTensors, name: str) -> Framework:
    return described.frameworks[type(described.tensors[name])]


def _memory(described: DescribedTensors, infos: Mapping[str, TensorInfo]) -> dict[str, memoryview]:
    """The own memory of tensors that the file can be read into as it is."""
    specs = described.specs
    found: dict[str, memoryview] = {}
    for framework, tensors in described.groups.items():
        names = [
            name for name in tensors if name in infos and infos[name].dtype is specs[name].dtype
        ]
        views = framework.memories([tensors[name] for name in names])
        # There is nothing to be read into empty ones.
        found.update((name, view) for name, view in zip(names, views, strict=True) if view)
    return found


def _shared(described: DescribedTensors) -> list[list[str]]:
    """Groups of tensors that are the same, or overlap as far as their frameworks can tell."""
    groups = [
        list(group)
        for framework, tensors in described.groups.items()
        for group in _told_shared(framework, tensors)
    ]
    first = {id(tensor): name for name, tensor in reversed(described.tensors.items())}
    same: dict[str, list[str]] = {}
    if len(first) < len(described.tensors):
        for name, tensor in described.tensors.items():
            same.setdefault(first[id(tensor)], []).append(name)
    return groups + [group for group in same.values() if len(group) > 1]


def _told_shared(framework: Framework, tensors: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    """Groups that a framework would not save, because they overlap."""
    try:
        framework.check_saveable(tensors)
    except SharedMemoryError as error:
        return error.groups
    return []


def _covered(
    described: DescribedTensors, groups: Iterable[list[str]], infos: Mapping[str, TensorInfo]
) -> set[str]:
    """Names that the file need not have, because they share memory with one that it has."""
    specs = described.specs
    covered: set[str] = set()
    for group in groups:
        begins = {name: _begin(described, name) for name in group}
        filled = [name for name in group if name in infos]
        covered |= {
            name
            for name in group
            for other in filled
            # Of two that begin at different addresses, only a part is the same memory.
            if specs[name] == specs[other]
            and (begins[name] == begins[other] or None in {begins[name], begins[other]})
        }
    return covered


def _begin(described: DescribedTensors, name: str) -> int | None:
    """Where a tensor begins that lies in the host's memory as in a file; None for others."""
    view = _framework(described, name).memory(described.tensors[name])
    return _address(view) if view else None


def _overlapping(memory: Mapping[str, memoryview]) -> list[list[str]]:
    """Groups of tensors whose own memory overlaps."""
    views = memory.values()
    places = sorted(zip(map(_address, views), map(len, views), memory, strict=True))
    groups: list[list[str]] = []
    reached = 0
    for begin, nbytes, name in places:
        if begin >= reached:
            groups.append([])
        groups[-1].append(name)
        reached = max(reached, begin + nbytes)
    return [group for group in groups if len(group) > 1]


def _repeated(
    described: DescribedTensors, groups: Iterable[list[str]], parts: Iterable[Part]
) -> set[str]:
    """Further names of tensors that the file has under several, with the same values."""
    places = {name: (source, info) for source, part in parts for name, info in part.items()}
    repeated: set[str] = set()
    for group in groups:
        first: dict[tuple[Any, ...], str] = {}
        for name in sorted(set(group).intersection(places).difference(repeated)):
            tensor = described.tensors[name]
            begin = _begin(described, name)
            key = described.specs[name], id(tensor) if begin is None else begin
            other = first.setdefault(key, name)
            if other != name and _equal(places[name], places[other]):
                repeated.add(name)
    return repeated


def _equal(one: tuple[ByteSource, TensorInfo], other: tuple[ByteSource, TensorInfo]) -> bool:
    """Whether two entries of files have the same dtype and the same bytes."""
    if one[1].dtype is not other[1].dtype:
        return False
    for begin in range(0, one[1].nbytes, _PIECE):
        pieces = []
        for source, info in (one, other):
            piece = bytearray(min(_PIECE, info.nbytes - begin))
            start = source.header.data_start + info.data_offsets[0]
            source.read_into(start + begin, memoryview(piece))
            pieces.append(piece)
        if pieces[0] != pieces[1]:
            return False
    return True


def _check_overlaps(location: str, groups: Iterable[list[str]], names: set[str]) -> None:
    """Refuse to fill the same memory twice: nobody could say with what."""
    filled = (tuple(sorted(names.intersection(group))) for group in groups)
    # Some are found twice: by their framework and by their addresses.
    conflicts = [names for names in dict.fromkeys(filled) if len(names) > 1]
    if conflicts:
        shown = ", ".join(f"{{{', '.join(map(repr, names))}}}" for names in conflicts[:10])
        error = SharedMemoryError(conflicts, "")
        advice = "Leave out all but one of each group, and use strict=False"
        found = f"{location} has different values for tensors that share memory: {shown}"
        error.args = (f"{found}. {advice}",)
        raise error


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


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
            _framework(described, name).check_dtypes({name: info})
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
                framework = _framework(described, name)
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
