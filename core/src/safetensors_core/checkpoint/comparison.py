"""`compare_checkpoints`: how two checkpoints differ, tensor by tensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from safetensors_core import collector
from safetensors_core.background import Workers
from safetensors_core.checkpoint.numbers import CHUNK_ELEMENTS, ValueDifference, compare_values
from safetensors_core.errors import PluginError
from safetensors_core.header import MAX_HEADER, TensorInfo
from safetensors_core.plugins import get_framework
from safetensors_core.shards.shard_set import ShardSet, open_shards
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.urls import shown

__all__ = ["Comparison", "TensorDifference", "compare_checkpoints"]

_READERS = 8  # batches that are read while one is compared: a network answers several at once
_MOST_IN_BATCH = 4096  # tensors: a buffer of its own takes more memory than a scalar in it


class TensorDifference(msgspec.Struct, frozen=True):
    """How two tensors of one name differ.

    Attributes:
        name: Their name.
        dtypes: Codes of their dtypes.
        shapes: Their shapes.
        values: By how much their values differ; None where the shapes are not the same, or where
            they could not be compared.
        not_compared: Why the values could not be compared; None where they were, or where the
            shapes are not the same.

    Example:
        >>> TensorDifference("w", ("F32", "BF16"), ((2,), (2,)), ValueDifference(2)).same_values
        True
    """

    name: str
    dtypes: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    values: ValueDifference | None = None
    not_compared: str | None = None

    @property
    def same_values(self) -> bool:
        """Whether the values were compared and are the same.

        Example:
            >>> TensorDifference("w", ("F32", "F32"), ((2,), (3,))).same_values
            False
        """
        return self.values is not None and not self.values.differing


class Comparison(msgspec.Struct, frozen=True):
    """How two checkpoints differ.

    Attributes:
        a: What the user gave first.
        b: What the user gave second.
        only_in_a: Names of tensors that the second one lacks, sorted.
        only_in_b: Names of tensors that the first one lacks, sorted.
        metadata: By the keys where they differ: the values in the files of each; none where it
            lacks the key.
        tensors: Those of both that differ, by name.
        equal_tensors: How many tensors of both are the same, bit for bit.

    Example:
        >>> Comparison("a", "b", [], [], {}, [], 3).equal
        True
    """

    a: str
    b: str
    only_in_a: list[str]
    only_in_b: list[str]
    metadata: dict[str, tuple[list[str], list[str]]]
    tensors: list[TensorDifference]
    equal_tensors: int

    @property
    def equal(self) -> bool:
        """Whether nothing differs: names, dtypes, shapes, metadata, and every bit of the values.

        Example:
            >>> Comparison("a", "b", ["w"], [], {}, [], 3).equal
            False
        """
        return not (self.only_in_a or self.only_in_b or self.metadata or self.tensors)

    @property
    def complete(self) -> bool:
        """Whether all values that could be compared by their shapes were compared.

        Example:
            >>> Comparison("a", "b", ["w"], [], {}, [], 3).complete
            True
        """
        return all(tensor.not_compared is None for tensor in self.tensors)


def compare_checkpoints(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Comparison:
    """Compare two checkpoints: names, dtypes, shapes, metadata, and the values of every tensor.

    In which files the tensors are, and in which order, makes no difference. Bytes are compared
    first. By how much values differ is found out with NumPy, where its plugin is installed; tensors
    of two dtypes are compared by their numbers. Memory is that of a part of a tensor.

    Args:
        a: A file, an index, a folder, or the URL of one.
        b: The other one.
        max_header: Longest header of a file to accept, in bytes.
        storage_options: Settings of the storage system, of both.
        progress: Called with the number of bytes that were compared so far, and that of all.

    Returns:
        How they differ.

    Raises:
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The files of one do not fit together.
        OSError: One cannot be found or opened.

    Example:
        >>> compare_checkpoints(model_path, model_path).equal
        True
    """
    with ExitStack() as closing:
        options: Any = {"max_header": max_header, "storage_options": storage_options}
        first = open_shards(a, "pread", **options)
        closing.callback(first.close)
        second = open_shards(b, "pread", **options)
        closing.callback(second.close)
        names, others = first.header.tensors.keys(), second.header.tensors.keys()
        with collector.paused():
            pairs = [
                _Pair(name, *first.locate(name), *second.locate(name))
                for name in first.header.tensors  # in the order of the files
                if name in others
            ]
        with Workers(_read_both, _READERS) as workers:
            batches = workers.ahead(_batches(pairs), _READERS)
            ready = chain.from_iterable(batch.result() for batch in batches)
            values = _Values(sum(pair.nbytes for pair in pairs), progress, ready)
            found = [values.difference(pair) for pair in pairs]
        differences = [difference for difference in found if difference is not None]
        return Comparison(
            a=shown(first.location),
            b=shown(second.location),
            only_in_a=sorted(names - others),
            only_in_b=sorted(others - names),
            metadata=_metadata_differences(_metadata(first), _metadata(second)),
            tensors=sorted(differences, key=lambda tensor: tensor.name),
            equal_tensors=len(pairs) - len(differences),
        )


def _metadata(shards: ShardSet) -> dict[str, list[str]]:
    """All values of each key of the metadata, in the order of the files."""
    values: dict[str, list[str]] = {}
    for file in shards.files:
        for key, value in (shards.source(file).header.metadata or {}).items():
            found = values.setdefault(key, [])
            if value not in found:
                found.append(value)
    return values


def _metadata_differences(
    a: Mapping[str, list[str]], b: Mapping[str, list[str]]
) -> dict[str, tuple[list[str], list[str]]]:
    keys = sorted(a.keys() | b.keys())
    return {key: (a.get(key, []), b.get(key, [])) for key in keys if a.get(key) != b.get(key)}


class _Pair(NamedTuple):
    """Two tensors of one name."""

    name: str
    source: ByteSource
    info: TensorInfo
    other_source: ByteSource
    other: TensorInfo

    @property
    def elements(self) -> int:
        """How many elements of each are compared."""
        return math.prod(self.info.shape) if self.info.shape == self.other.shape else 0

    @property
    def nbytes(self) -> int:
        """Bytes to read, of both."""
        return self.info.nbytes + self.other.nbytes if self.elements else 0


class _Chunk(NamedTuple):
    """Some elements of two tensors."""

    pair: _Pair
    begin: int
    elements: int


#: The bytes of a chunk, of both tensors, or why they could not be read.
_Read = tuple[bytearray, bytearray] | OSError


def _chunks(pairs: Iterable[_Pair]) -> Iterator[_Chunk]:
    """What is compared at a time, of tensors that have one shape."""
    for pair in pairs:
        for begin in range(0, pair.elements, CHUNK_ELEMENTS):
            yield _Chunk(pair, begin, min(CHUNK_ELEMENTS, pair.elements - begin))


def _batches(pairs: Iterable[_Pair]) -> Iterator[list[_Chunk]]:
    """What is read at a time: as many small tensors as have the elements of one large chunk."""
    batch: list[_Chunk] = []
    elements = 0
    for chunk in _chunks(pairs):
        full = elements + chunk.elements > CHUNK_ELEMENTS or len(batch) == _MOST_IN_BATCH
        if batch and full:
            yield batch
            batch, elements = [], 0
        batch.append(chunk)
        elements += chunk.elements
    if batch:
        yield batch


def _read_both(batch: list[_Chunk]) -> list[_Read]:
    try:
        a = _read([(pair.source, pair.info, begin, count) for pair, begin, count in batch])
        b = _read([(pair.other_source, pair.other, begin, count) for pair, begin, count in batch])
    except OSError as error:
        if len(batch) == 1:
            return [error]
    else:
        return list(zip(a, b, strict=True))
    # What can be read is compared, whatever is wrong with its neighbours.
    return [read for chunk in batch for read in _read_both([chunk])]


def _read(wanted: Iterable[tuple[ByteSource, TensorInfo, int, int]]) -> list[bytearray]:
    """The bytes of some elements of tensors."""
    found: list[bytearray] = []
    # By identity: the sources of a plugin, dataclasses say, need not be hashable.
    ranges: dict[int, tuple[ByteSource, list[tuple[int, memoryview]]]] = {}
    for source, info, begin, count in wanted:
        data = bytearray(info.dtype.nbytes(count))
        start = source.header.data_start + info.data_offsets[0] + info.dtype.nbytes(begin)
        ranges.setdefault(id(source), (source, []))[1].append((start, memoryview(data)))
        found.append(data)
    for source, parts in ranges.values():
        source.read_ranges(sorted(parts, key=itemgetter(0)))
    return found


class _Values:
    """Compares the values of tensors, one pair after the other, as they are read."""

    def __init__(
        self,
        total: int,
        progress: Callable[[int, int], object],
        ready: Iterator[_Read],
    ) -> None:
        self._done = 0
        self._total = total
        self._progress = progress
        self._ready = ready

    def difference(self, pair: _Pair) -> TensorDifference | None:
        """How two tensors differ; None where they are the same, bit for bit."""
        info, other = pair.info, pair.other
        values = reason = None
        if info.shape == other.shape:
            values, fault = self._values(pair)
            if isinstance(fault, PluginError):
                reason = (
                    f"these values differ, or may differ, and comparing them needs NumPy: {fault}"
                )
            elif fault is not None:
                reason = f"they cannot be read: {fault}"
            elif values is not None and not values.differing and info.dtype is other.dtype:
                return None
        dtypes = (info.dtype.value, other.dtype.value)
        return TensorDifference(pair.name, dtypes, (info.shape, other.shape), values, reason)

    def _values(self, pair: _Pair) -> tuple[ValueDifference | None, OSError | PluginError | None]:
        """By how much two tensors differ, or why that is not known."""
        found = ValueDifference()
        fault: OSError | PluginError | None = None
        for chunk in _chunks([pair]):
            read = next(self._ready)
            if fault is not None:
                continue  # what was read of the rest is passed over
            if isinstance(read, OSError):
                fault = read
                continue
            try:
                found += self._compared(chunk, *read)
            except PluginError as error:
                fault = error
        return (found, None) if fault is None else (None, fault)

    def _compared(self, chunk: _Chunk, a: bytearray, b: bytearray) -> ValueDifference:
        dtype, other = chunk.pair.info.dtype, chunk.pair.other.dtype
        self._done += len(a) + len(b)
        self._progress(self._done, self._total)
        if dtype is other and a == b:
            return ValueDifference(chunk.elements)
        return compare_values(get_framework("numpy"), (dtype, a), (other, b), chunk.elements)
