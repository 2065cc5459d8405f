"""Which tensors share memory, and what a file may have for them."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from safetensors_core.description import DescribedTensors
from safetensors_core.errors import SharedMemoryError
from safetensors_core.framework import Framework
from safetensors_core.header import TensorInfo
from safetensors_core.read_ahead import Part
from safetensors_core.sources import ByteSource

__all__ = ["check_entries", "find_covered", "find_overlapping", "find_repeated", "find_shared"]

_PIECE = 16 * 1024 * 1024  # bytes of two tensors that are compared at a time


def find_shared(described: DescribedTensors) -> list[list[str]]:
    """Find tensors that are the same, or overlap as far as their frameworks can tell.

    Args:
        described: The tensors.

    Returns:
        Groups of names.

    Example:
        >>> from safetensors_core.description import describe_tensors
        >>> array = np.zeros(3)
        >>> find_shared(describe_tensors({"a": array, "b": array, "c": np.zeros(3)}))
        [['a', 'b']]
    """
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


def find_covered(
    described: DescribedTensors, groups: Iterable[list[str]], infos: Mapping[str, TensorInfo]
) -> set[str]:
    """Find what the file need not have, because it shares memory with what it has.

    Args:
        described: The tensors.
        groups: Those that `find_shared` has found.
        infos: Entries of the file, of tensors only.

    Returns:
        Names. Those that the file has may be among them.

    Example:
        >>> from safetensors_core import Dtype
        >>> from safetensors_core.description import describe_tensors
        >>> array = np.zeros((2, 3), np.float32)
        >>> described = describe_tensors({"whole": array, "row": array[1], "other": array.copy()})
        >>> find_covered(described, [], {"whole": TensorInfo(Dtype.F32, (2, 3), (0, 24))})
        {'row'}
    """
    return _same(described, groups, infos) | _contained(described, infos)


def _same(
    described: DescribedTensors, groups: Iterable[list[str]], infos: Mapping[str, TensorInfo]
) -> set[str]:
    """Names of tensors that are the same as one that the file has."""
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


def _contained(described: DescribedTensors, infos: Mapping[str, TensorInfo]) -> set[str]:
    """Names of tensors that lie inside of one that the file has."""
    storages: dict[Any, list[str]] = {}
    if infos.keys() < described.tensors.keys():
        for name, tensor in described.tensors.items():
            framework = described.framework(name)
            storages.setdefault((framework, framework.storage_key(tensor)), []).append(name)
    contained: set[str] = set()
    for (_, key), names in storages.items():
        missing = [name for name in names if name not in infos]
        if key is None or not missing or len(names) == len(missing):
            continue
        filled = sorted(_regions(described, [name for name in names if name in infos]).values())
        for name, (begin, end) in _regions(described, missing).items():
            place = bisect_right(filled, begin, key=itemgetter(0)) - 1
            if place >= 0 and end <= filled[place][1]:
                contained.add(name)
    return contained


def _regions(described: DescribedTensors, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Where tensors begin and end that lie in the host's memory as in a file; not of others."""
    views = {name: described.framework(name).memory(described.tensors[name]) for name in names}
    begins = {name: _address(view) for name, view in views.items() if view}
    return {name: (begin, begin + len(views[name] or b"")) for name, begin in begins.items()}


def _begin(described: DescribedTensors, name: str) -> int | None:
    """Where a tensor begins that lies in the host's memory as in a file; None for others."""
    return _regions(described, [name]).get(name, (None, None))[0]


def find_overlapping(memory: Mapping[str, memoryview]) -> list[list[str]]:
    """Find buffers that overlap.

    Args:
        memory: Buffers by name, not empty.

    Returns:
        Groups of names.

    Example:
        >>> whole = memoryview(bytearray(8))
        >>> find_overlapping({"a": whole[:5], "b": whole[4:], "c": memoryview(bytearray(1))})
        [['a', 'b']]
    """
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


def find_repeated(
    described: DescribedTensors, groups: Iterable[list[str]], parts: Iterable[Part]
) -> set[str]:
    """Find further names of tensors that the file has under several, with the same bytes.

    Args:
        described: The tensors.
        groups: Names of those that share memory.
        parts: Files and what is to be read of each.

    Returns:
        Names that need not be read.

    Raises:
        OSError: A file cannot be read.

    Example:
        >>> from safetensors_core.description import describe_tensors
        >>> find_repeated(describe_tensors({"w": np.zeros(3)}), [], [])
        set()
    """
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


def check_entries(location: str, groups: Iterable[list[str]], names: set[str]) -> None:
    """Refuse to fill the same memory twice: nobody could say with what.

    Args:
        location: The file, as the error shows it.
        groups: Names of tensors that share memory.
        names: Those that are to be filled.

    Raises:
        SharedMemoryError: Several of a group are.

    Example:
        >>> check_entries("a.safetensors", [["a", "b"]], {"a", "c"})
        >>> check_entries("a.safetensors", [["a", "b"]], {"a", "b"})
        Traceback (most recent call last):
        safetensors_core.errors.SharedMemoryError: a.safetensors has separate entries for ...
    """
    filled = (tuple(sorted(names.intersection(group))) for group in groups)
    # Some are found twice: by their framework and by their addresses.
    conflicts = [names for names in dict.fromkeys(filled) if len(names) > 1]
    if conflicts:
        shown = ", ".join(f"{{{', '.join(map(repr, names))}}}" for names in conflicts[:10])
        error = SharedMemoryError(conflicts, "")
        advice = "Leave out all but one of each group, and use strict=False"
        found = f"{location} has separate entries for tensors that share memory: {shown}"
        error.args = (f"{found}. {advice}",)
        raise error


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
