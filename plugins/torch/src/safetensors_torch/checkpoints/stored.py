"""The tensors of a checkpoint while they are in their file: checked, and read at positions."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from safetensors_core import (
    ConversionError,
    InvalidInputError,
    SafetensorError,
    TensorSpec,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)
from safetensors_core.convert import StoredTensor
from safetensors_core.sources import FileSource
from safetensors_torch.checkpoints.rebuilding import TensorRecord
from safetensors_torch.description import file_spec
from safetensors_torch.framework import swap_bytes

__all__ = ["Contents", "Extent", "stored_tensors"]

_BLOCK = 4 * 2**20  # bytes that are in memory at a time
# Views that overlap are stored whole each. Tensors that take so many times as much as their file
# are refused if they also take more than a GiB: a few bytes can claim to be any number of them.
_MAX_EXPANSION = 4
_ALWAYS_ALLOWED = 2**30  # bytes


@dataclass(frozen=True)
class Extent:
    """Where the bytes of a storage are in the file.

    Attributes:
        offset: The first of them.
        nbytes: How many they are.
        checksum: Their CRC-32; None where the file has none.

    Example:
        >>> Extent(64, 40).nbytes
        40
    """

    offset: int
    nbytes: int
    checksum: int | None = None


@dataclass(frozen=True)
class Contents:
    """What is in a file of PyTorch.

    Attributes:
        root: What its pickle holds.
        extents: Where its storages are, by name.
        pickle_size: Size of the pickle in bytes.
        big_endian: Whether its numbers are of a machine that is.

    Example:
        >>> Contents({}, {}, 2).big_endian
        False
    """

    root: Any
    extents: Mapping[str, Extent]
    pickle_size: int
    big_endian: bool = False


def stored_tensors(
    tensors: Mapping[str, TensorRecord], contents: Contents, source: FileSource
) -> tuple[dict[str, StoredTensor], dict[str, SafetensorError]]:
    """What is needed to read tensors, once all that is said about them fits to the file.

    Args:
        tensors: What the pickle says, by name.
        contents: Where the storages are.
        source: The file, which stays open as long as tensors are read.

    Returns:
        By name: tensors in C order are read in blocks of some MiB, others whole. Then the errors
        for those of which the format has no exact equivalent.

    Raises:
        UnsafeCheckpointError: A tensor reaches outside of its storage, or the tensors claim to
            be much larger than the file.
        ConversionError: A storage is missing, or is not as long as the pickle says.

    Example:
        >>> from safetensors_torch.checkpoints.rebuilding import Storage
        >>> path = tmp_path / "numbers"
        >>> _ = path.write_bytes(bytes([0, 1, 2, 3]))
        >>> record = TensorRecord(Storage("0", torch.uint8, 4), torch.uint8, 1, (2,), (1,))
        >>> contents = Contents({}, {"0": Extent(0, 4)}, 0)
        >>> tensors, refused = stored_tensors({"w": record}, contents, FileSource(path))
        >>> tensors["w"].read()
        tensor([1, 2], dtype=torch.uint8)
    """
    stored: dict[str, StoredTensor] = {}
    refused: dict[str, SafetensorError] = {}
    sizes: dict[Any, int] = {}
    for name, record in tensors.items():
        try:
            spec = _spec(name, record, source.location)
        except SafetensorError as error:
            refused[name] = error.with_traceback(None)  # whose frames would hold the file
            continue
        reading = _Reading(name, record, _extent(name, record, contents, source), source)
        sizes[record.key] = spec.nbytes
        stored[name] = StoredTensor(
            spec,
            partial(reading.read, swapped=contents.big_endian),
            reading.chunks if record.is_contiguous and not contents.big_endian else None,
            record.key,
        )
    total = sum(sizes.values())
    if total > max(_MAX_EXPANSION * source.size, _ALWAYS_ALLOWED):
        raise UnsafeCheckpointError(
            f"its tensors claim to be {total:,} bytes of a file of {source.size:,}",
            source.location,
        )
    return stored, refused


def _spec(name: str, record: TensorRecord, location: str) -> TensorSpec:
    try:
        return file_spec(record.dtype, record.shape)
    except UnsupportedDtypeError as error:
        error.tensor, error.location = name, location
        raise
    except InvalidInputError as error:
        raise ConversionError(f"tensor {name!r}: {error}", location) from None


def _extent(name: str, record: TensorRecord, contents: Contents, source: FileSource) -> Extent:
    storage = record.storage
    if record.span and record.begin + record.span > storage.nbytes:
        raise UnsafeCheckpointError(
            f"tensor {name!r} of shape {list(record.shape)} reaches outside of its storage of "
            f"{storage.nbytes:,} bytes",
            source.location,
        )
    extent = contents.extents.get(storage.name)
    if extent is None:
        raise ConversionError(
            f"the numbers of tensor {name!r} are missing: there is no storage {storage.name!r}",
            source.location,
        )
    if extent.nbytes != storage.nbytes:
        raise ConversionError(
            f"the storage of tensor {name!r} has {extent.nbytes:,} bytes, where its pickle says "
            f"{storage.nbytes:,}",
            source.location,
        )
    return extent


@dataclass(frozen=True)
class _Reading:
    name: str
    record: TensorRecord
    extent: Extent
    source: FileSource

    def chunks(self) -> Iterator[memoryview]:
        position = self.extent.offset + self.record.begin
        left = self.record.span
        checksum = 0
        while left:
            block = memoryview(bytearray(min(left, _BLOCK)))
            self.source.read_into(position, block)
            checksum = zlib.crc32(block, checksum)
            position += len(block)
            left -= len(block)
            yield block
        self._check(checksum)

    def read(self, *, swapped: bool) -> torch.Tensor:
        record = self.record
        if not record.span:
            return torch.empty(record.shape, dtype=record.dtype)
        data = bytearray(record.span)
        self.source.read_into(self.extent.offset + record.begin, memoryview(data))
        self._check(zlib.crc32(data))
        tensor = torch.frombuffer(data, dtype=record.dtype)
        if swapped:
            tensor = swap_bytes(tensor)
        tensor = tensor.as_strided(record.shape, record.strides)
        if record.conjugate:
            tensor = tensor.conj_physical()
        return tensor.neg() if record.negative else tensor

    def _check(self, checksum: int) -> None:
        """Compare a checksum where it is one of all that the archive has one of."""
        whole = self.record.span == self.extent.nbytes
        if whole and self.extent.checksum is not None and checksum != self.extent.checksum:
            raise ConversionError(
                f"the numbers of tensor {self.name!r} are damaged: their CRC-32 is "
                f"{checksum:08x}, where the archive says {self.extent.checksum:08x}",
                self.source.location,
            )
