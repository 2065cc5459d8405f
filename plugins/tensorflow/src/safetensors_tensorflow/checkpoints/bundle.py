"""The files of a TensorFlow checkpoint: ``PREFIX.index``, and ``PREFIX.data-00000-of-00001``...

The index says of each tensor where its bytes are. The bytes are little-endian and in C order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safetensors_core import Dtype, TensorSpec, UnsupportedDtypeError
from safetensors_core.convert import StoredTensor
from safetensors_core.errors import ConversionError, UnsafeCheckpointError
from safetensors_numpy.framework import NumpyFramework
from safetensors_tensorflow.checkpoints.crc32c import crc32c, mask
from safetensors_tensorflow.checkpoints.sorted_table import read_table
from safetensors_tensorflow.checkpoints.wire import as_signed, read_fields, read_varint

__all__ = ["STRING", "Bundle", "Entry"]

Array = npt.NDArray[Any]

#: The number of TensorFlow's type for texts.
STRING = 7

# Numbers of `DataType` in tensorflow/core/framework/types.proto.
_DTYPES = {
    1: Dtype.F32,
    2: Dtype.F64,
    3: Dtype.I32,
    4: Dtype.U8,
    5: Dtype.I16,
    6: Dtype.I8,
    8: Dtype.C64,
    9: Dtype.I64,
    10: Dtype.BOOL,
    14: Dtype.BF16,
    17: Dtype.U16,
    19: Dtype.F16,
    22: Dtype.U32,
    23: Dtype.U64,
    24: Dtype.F8_E5M2,
    25: Dtype.F8_E4M3,
    26: Dtype.F8_E4M3FNUZ,
    28: Dtype.F8_E5M2FNUZ,
}
_OTHER_DTYPES = {
    STRING: "string",
    11: "qint8",
    12: "quint8",
    13: "qint32",
    15: "qint16",
    16: "quint16",
    18: "complex128",
    20: "resource",
    21: "variant",
    27: "float8_e4m3b11fnuz",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
    33: "float4_e2m1fn",
}
_CHUNK = 16 * 2**20  # bytes
_LONGEST_INDEX = 2**30  # bytes: millions of tensors
_MOST_DIMENSIONS = 32  # of an array in NumPy 1
_MOST_ELEMENTS = 2**56  # no machine has these, and NumPy counts no further than 2**63 bytes

# Of each dimension, where a slice begins and how long it is; None for all of it.
Slice = tuple[tuple[int, int | None], ...]


class Entry(NamedTuple):
    """What the index says of a tensor.

    Attributes:
        dtype: TensorFlow's number of its element type.
        shape: Elements per dimension.
        shard: Number of the file that holds its bytes.
        offset: Where they begin in it.
        size: How many they are.
        crc: Their checksum, masked.
        slices: The parts that it is stored in; empty if it is stored as a whole.

    Example:
        >>> Entry.decode(bytes([0x08, 0x01, 0x28, 0x04])).size
        4
    """

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[Slice, ...] = ()

    @classmethod
    def decode(cls, message: bytes) -> Entry:
        """The entry from its bytes.

        Args:
            message: A ``BundleEntryProto``.

        Returns:
            The entry.

        Raises:
            ValueError: The message is damaged.

        Example:
            >>> Entry.decode(b"")
            Entry(dtype=0, shape=(), shard=0, offset=0, size=0, crc=0, slices=())
        """
        names = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "crc"}
        fields: dict[str, Any] = {}
        slices: list[Slice] = []
        for number, value in read_fields(message):
            if number in names and isinstance(value, int):
                fields[names[number]] = as_signed(value)
            elif number == 2:
                fields["shape"] = tuple(
                    as_signed(_integers(dimension).get(1, 0)) for dimension in _messages(value, 2)
                )
            elif number == 7:
                extents = [_integers(extent) for extent in _messages(value, 1)]
                slices.append(tuple((as_signed(e.get(1, 0)), e.get(2)) for e in extents))
        entry = cls(**fields, slices=tuple(slices))
        elements = math.prod(dimension for dimension in entry.shape if dimension)
        possible = len(entry.shape) <= _MOST_DIMENSIONS and min(entry.shape, default=0) >= 0
        if not possible or elements > _MOST_ELEMENTS:
            raise ValueError(f"a tensor of it has the shape {list(entry.shape)[:10]}")
        return entry


class Bundle:
    """An open TensorFlow checkpoint.

    Attributes:
        location: Its prefix, as errors show it.
        entries: What the index says, by the keys of the tensors, in its order.

    Example:
        >>> Bundle("missing")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'missing.index'
    """

    def __init__(self, prefix: str) -> None:
        self.location = prefix
        with open(f"{prefix}.index", "rb") as file:
            if os.fstat(file.fileno()).st_size > _LONGEST_INDEX:
                raise ConversionError("its index is larger than a GiB", prefix)
            data = file.read()
        try:
            table = read_table(data)
            header = _integers(table.pop(b"", b""))
            self._parts = {k: Entry.decode(v) for k, v in table.items() if k.startswith(b"\0")}
            self.entries = {
                key.decode(): Entry.decode(value)
                for key, value in table.items()
                if not key.startswith(b"\0")
            }
        except (ValueError, TypeError) as error:
            raise ConversionError(f"its index cannot be read: {error}", prefix) from None
        if header.get(2, 0):
            raise ConversionError(
                "it was written on a big-endian machine: save it again on another", prefix
            )
        self._shards = self._find_shards(header.get(1, 0))
        whole = sum(size for _, size in self._shards)
        listed = sum(e.size for e in (*self.entries.values(), *self._parts.values()))
        if listed > whole:
            raise UnsafeCheckpointError(
                f"its index lists {listed:,} bytes of tensors, its files hold {whole:,}", prefix
            )

    def _find_shards(self, count: int) -> list[tuple[str, int]]:
        """Paths and sizes of the files with the data."""
        shards = []
        # The first that is missing ends this, so that a number cannot make it long.
        for number in range(count):
            path = f"{self.location}.data-{number:05d}-of-{count:05d}"
            try:
                shards.append((path, os.stat(path).st_size))
            except FileNotFoundError:
                raise ConversionError(
                    f"its file {os.path.basename(path)!r} is missing", self.location
                ) from None
        return shards

    def tensor(self, key: str, name: str) -> StoredTensor:
        """A tensor, of which nothing is read yet.

        Args:
            key: Its key in the index.
            name: What errors shall call it.

        Returns:
            The tensor. Its bytes are held to their checksum whenever they are read.

        Raises:
            UnsupportedDtypeError: The format has no equivalent of its dtype.
            ConversionError: The index is not right about it.
        """
        entry = self.entries[key]
        code = _DTYPES.get(entry.dtype)
        if code is None:
            shown = _OTHER_DTYPES.get(entry.dtype, f"number {entry.dtype} of TensorFlow")
            error = UnsupportedDtypeError(shown, "the safetensors format", tensor=name)
            error.location = self.location
            raise error
        spec = TensorSpec(code, entry.shape)
        if entry.slices:
            parts = self._find_parts(key, name, entry)
            return StoredTensor(spec, lambda: self._join(spec, parts, name))
        self._check(entry, spec, name)
        return StoredTensor(
            spec, lambda: self._read(entry, spec, name), lambda: self._chunks(entry, name)
        )

    def text(self, key: str) -> bytes:
        """The one text of a tensor that holds no more.

        Args:
            key: Its key in the index.

        Returns:
            Its bytes.

        Raises:
            ConversionError: It is damaged, or something else.
        """
        entry = self.entries[key]
        self._check(entry, None, key)
        try:
            data = b"".join(self._pieces(entry))
            length, position = read_varint(data, 0)
        except ValueError as error:
            raise ConversionError(f"{key!r} cannot be read: {error}", self.location) from None
        if entry.dtype != STRING or position + 4 + length != len(data):
            raise ConversionError(f"{key!r} is not one text", self.location)
        # The length counts as a word, however it is written.
        crc = crc32c(length.to_bytes(4 if length < 2**32 else 8, "little"))
        if mask(crc32c(data[position:], crc)) != entry.crc:
            raise self._damaged(key)
        return data[position + 4 :]

    def _check(self, entry: Entry, spec: TensorSpec | None, name: str) -> None:
        held = self._shards[entry.shard][1] if 0 <= entry.shard < len(self._shards) else -1
        if min(entry.offset, entry.size) < 0 or entry.offset + entry.size > held:
            raise ConversionError(
                f"tensor {name!r}: its bytes are not in its file, which is cut off", self.location
            )
        if spec is not None and spec.nbytes != entry.size:
            raise ConversionError(
                f"tensor {name!r}: {spec.dtype} of shape {list(spec.shape)} takes {spec.nbytes:,} "
                f"bytes, not {entry.size:,}",
                self.location,
            )

    def _pieces(self, entry: Entry) -> Iterator[bytes]:
        left = entry.size
        with open(self._shards[entry.shard][0], "rb") as file:
            file.seek(entry.offset)
            while left:
                piece = file.read(min(left, _CHUNK))
                if not piece:
                    raise ConversionError("a file of it became shorter", self.location)
                left -= len(piece)
                yield piece

    def _chunks(self, entry: Entry, name: str) -> Iterator[bytes]:
        crc = 0
        for piece in self._pieces(entry):
            crc = crc32c(piece, crc)
            yield piece
        if mask(crc) != entry.crc:
            raise self._damaged(name)

    def _damaged(self, name: str) -> ConversionError:
        return ConversionError(
            f"tensor {name!r} does not match its checksum: the file is damaged", self.location
        )

    def _read(self, entry: Entry, spec: TensorSpec, name: str) -> Array:
        memory = np.empty(entry.size, np.uint8)
        position = 0
        for piece in self._chunks(entry, name):
            memory[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
            position += len(piece)
        return memory.view(NumpyFramework.dtypes[spec.dtype]).reshape(spec.shape)

    def _find_parts(self, key: str, name: str, whole: Entry) -> list[tuple[Slice, Entry]]:
        parts = []
        elements = 0
        for extents in whole.slices:
            part = self._parts.get(_part_key(key, extents))
            shape = tuple(
                total - begin if length is None else length
                for (begin, length), total in zip(extents, whole.shape, strict=False)
            )
            inside = all(
                min(begin, length) >= 0 and begin + length <= total
                for (begin, _), length, total in zip(extents, shape, whole.shape, strict=False)
            )
            if part is None or not inside or len(extents) != len(whole.shape):
                raise ConversionError(f"tensor {name!r}: a part of it is missing", self.location)
            if (part.dtype, part.shape) != (whole.dtype, shape):
                raise ConversionError(f"tensor {name!r}: a part of it is another's", self.location)
            self._check(part, TensorSpec(_DTYPES[part.dtype], shape), name)
            elements += math.prod(shape)
            parts.append((extents, part))
        if elements != math.prod(whole.shape) or _overlap(whole):
            raise ConversionError(f"tensor {name!r}: its parts do not make it up", self.location)
        return parts

    def _join(self, spec: TensorSpec, parts: list[tuple[Slice, Entry]], name: str) -> Array:
        whole = np.zeros(spec.shape, NumpyFramework.dtypes[spec.dtype])
        for extents, part in parts:
            whole[_place(extents)] = self._read(part, TensorSpec(spec.dtype, part.shape), name)
        return whole


def _place(extents: Slice) -> tuple[slice, ...]:
    return tuple(slice(begin, None if n is None else begin + n) for begin, n in extents)


def _overlap(whole: Entry) -> bool:
    """Whether two parts of a tensor have an element in common, and so leave out another."""
    taken = np.zeros(whole.shape, bool)
    for place in map(_place, whole.slices):
        if taken[place].any():
            return True
        taken[place] = True
    return False


def _integers(message: bytes) -> dict[int, int]:
    return {n: value for n, value in read_fields(message) if isinstance(value, int)}


def _messages(message: int | bytes, wanted: int) -> list[bytes]:
    if isinstance(message, int):
        raise ValueError("a field of it is a number where a message belongs")  # noqa: TRY004
    return [v for n, v in read_fields(message) if n == wanted and isinstance(v, bytes)]


def _part_key(key: str, extents: Slice) -> bytes:
    """The key of a part: a zero, then name, rank and extents in an encoding that sorts."""
    escaped = key.encode().replace(b"\xff", b"\xff\x00").replace(b"\x00", b"\x00\xff")
    numbers = [-1 if n is None else n for extent in extents for n in extent]
    return b"\x00%b\x00\x01\x01%c%b" % (escaped, len(extents), b"".join(map(_sortable, numbers)))


def _sortable(number: int) -> bytes:
    """A number with as many ones in front as it has bytes; a negative one inverted."""
    if number < 0:
        return bytes(255 - octet for octet in _sortable(~number))
    length = number.bit_length() // 7 + 1
    return ((((1 << length) - 1) << 7 * length) ^ number).to_bytes(length, "big")
