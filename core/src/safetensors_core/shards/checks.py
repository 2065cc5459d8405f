"""What must hold between an index and the files that it names. Each fault is an error to raise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from safetensors_core.errors import CheckpointError, CheckpointReason
from safetensors_core.header import Header
from safetensors_core.shards.index import ShardIndex

__all__ = ["HARMLESS", "file_faults", "total_size_faults"]

#: Faults that change nothing about what is loaded.
HARMLESS = (CheckpointReason.UNLISTED_TENSOR, CheckpointReason.WRONG_TOTAL_SIZE)


def file_faults(
    index: ShardIndex, listed: Iterable[str], path: str, header: Header
) -> Iterator[CheckpointError]:
    """Hold a file to the index.

    Args:
        index: What the index says.
        listed: The tensors that the index puts into the file.
        path: Path or URL of the file, as errors show it.
        header: What the file says.

    Yields:
        What does not fit.

    Example:
        >>> index = ShardIndex({"w": "a.safetensors"})
        >>> [fault] = file_faults(index, ["w"], "m/a.safetensors", Header({}, None, 8))
        >>> print(fault)
        m/a.safetensors: tensors that the index puts into this file are not in it: 'w'
    """
    listed = set(listed)
    missing = sorted(listed - header.tensors.keys())
    if missing:
        detail = "tensors that the index puts into this file are not in it"
        yield CheckpointError(CheckpointReason.MISSING_TENSOR, detail, path, missing)
    unlisted = sorted(header.tensors.keys() - listed)
    elsewhere = [name for name in unlisted if name in index.weight_map]
    if elsewhere:
        detail = "tensors are in this file that the index puts into another"
        yield CheckpointError(CheckpointReason.DUPLICATE_TENSOR, detail, path, elsewhere)
    unknown = [name for name in unlisted if name not in index.weight_map]
    if unknown:
        detail = "the index does not name these tensors of the file, so they are not loaded"
        yield CheckpointError(CheckpointReason.UNLISTED_TENSOR, detail, path, unknown)


def total_size_faults(
    index: ShardIndex, location: str, headers: Mapping[str, Header]
) -> Iterator[CheckpointError]:
    """Compare the size that the index gives with what the files hold.

    Args:
        index: What the index says.
        location: Path or URL of the index, as errors show it.
        headers: What the files say, by name of the file; all of them.

    Yields:
        The fault, if the index gives a size and it is wrong.

    Example:
        >>> index = ShardIndex({}, {"total_size": 8})
        >>> [print(fault) for fault in total_size_faults(index, "index.json", {})]
        index.json: total_size is 8, but the tensors have 0 bytes
        [None]
    """
    stated = index.metadata.get("total_size")
    if stated is None:
        return
    held = sum(
        info.nbytes
        for file, header in headers.items()
        for name, info in header.tensors.items()
        if index.weight_map.get(name) == file
    )
    # True equals 1, and 8.0 equals 8: other tools write such floats, and they do no harm.
    if stated != held:
        detail = f"total_size is {stated!r}, but the tensors have {held} bytes"
        yield CheckpointError(CheckpointReason.WRONG_TOTAL_SIZE, detail, location)
