"""The header of a GGUF file: what it says of itself, and where its tensors are.

Read by hand rather than with the package `gguf`, which makes arrays of whatever a file claims, and
an object of each word of a vocabulary. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
from typing import IO, Any, NamedTuple

import numpy as np

from safetensors_core import ConversionError

__all__ = ["GgufHeader", "GgufTensor", "read_header"]

_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_U32, _F32, _STRING, _ARRAY = 4, 6, 8, 9
_SMALLEST_VALUE = 13  # bytes of a key without letters, its type, and a value of one byte
_SMALLEST_TENSOR = 24  # bytes of a name without letters, a scalar's shape, type and offset
_LONGEST_NAME = 65535
_LONGEST_TEXT = 64 * 1024  # bytes that metadata may take; tokenizers are much longer


class GgufTensor(NamedTuple):
    """One entry of the list of tensors.

    Attributes:
        name: Its name.
        shape: Elements per dimension, outermost first; the file lists them the other way round.
        kind: Its type, a number of ggml's.
        offset: Where its bytes begin in the file.

    Example:
        >>> GgufTensor("output.weight", (2, 3), 0, 4096).shape
        (2, 3)
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufHeader(NamedTuple):
    """What stands before the bytes of the tensors.

    Attributes:
        tensors: The tensors, in the order of the file.
        metadata: Texts, numbers and truth values by key, as texts.
        left_out: Keys of other values, with the reason.
        big_endian: Whether all numbers are.

    Example:
        >>> GgufHeader([], {"general.name": "Tiny"}, {}, False).metadata["general.name"]
        'Tiny'
    """

    tensors: list[GgufTensor]
    metadata: dict[str, str]
    left_out: dict[str, str]
    big_endian: bool


def read_header(location: str) -> GgufHeader:
    """Read the header of a GGUF file.

    Args:
        location: The file.

    Returns:
        The header. Offsets are not yet compared with the size of the file.

    Raises:
        ConversionError: It is damaged, or of a version that is not known.
        OSError: It cannot be read.

    Example:
        >>> (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
        24
        >>> read_header(str(tmp_path / "a.gguf")).tensors
        []
    """
    with open(location, "rb") as stream:
        return _HeaderReader(stream, location).read()


class _HeaderReader:
    """Reads numbers and texts, never more than the file still has."""

    def __init__(self, stream: IO[bytes], location: str) -> None:
        self._stream = stream
        self._location = location
        self._size = os.fstat(stream.fileno()).st_size
        self._at = 0
        self._order = "<"
        self._metadata: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._alignment = 32

    def read(self) -> GgufHeader:
        self._bytes(4)
        version = self._number("I")
        if version & 0xFFFF == 0:
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
            self._order = ">"
        if version not in _VERSIONS:
            raise self._damaged(f"version {version} of GGUF is unknown; known are {_VERSIONS}")
        tensors = self._count("Q", _SMALLEST_TENSOR)
        for _ in range(self._count("Q", _SMALLEST_VALUE)):
            self._add_value()
        found = [self._tensor() for _ in range(tensors)]
        if len({tensor.name for tensor in found}) < len(found):
            raise self._damaged("two of its tensors have one name")
        begin = self._at + -self._at % self._alignment
        placed = [tensor._replace(offset=begin + tensor.offset) for tensor in found]
        return GgufHeader(placed, self._metadata, self._left_out, self._order == ">")

    def _add_value(self) -> None:
        key = self._text(_LONGEST_NAME)
        if key in self._metadata or key in self._left_out:
            raise self._damaged(f"the key {key!r} is there twice")
        kind = self._number("I")
        if kind == _ARRAY:
            self._left_out[key] = f"a list of {self._skip_list():,} values, not a tensor"
        elif kind == _STRING:
            self._add_text(key)
        else:
            value = self._number(self._scalar(kind))
            if key == "general.alignment":
                self._set_alignment(kind, value)
            # The shortest text that means this number; Python's own is that of a double.
            self._metadata[key] = str(np.float32(value) if kind == _F32 else value)

    def _add_text(self, key: str) -> None:
        length = self._count("Q", 1)
        if length > _LONGEST_TEXT:
            self._skip(length)
            self._left_out[key] = f"a text of {length:,} bytes, too long for metadata"
        else:
            self._metadata[key] = self._decoded(self._bytes(length))

    def _set_alignment(self, kind: int, value: Any) -> None:
        if kind != _U32 or value == 0 or value & (value - 1):
            raise self._damaged(f"its alignment is {value}, which is no power of two of 32 bits")
        self._alignment = value

    def _tensor(self) -> GgufTensor:
        name = self._text(_LONGEST_NAME)
        dimensions = self._count("I", 8)
        lengths = struct.unpack(f"{self._order}{dimensions}Q", self._bytes(8 * dimensions))
        kind, offset = self._number("I"), self._number("Q")
        if offset % self._alignment:
            raise self._damaged(
                f"tensor {name!r} begins at {offset}, which is no multiple of {self._alignment}"
            )
        return GgufTensor(name, lengths[::-1], kind, offset)

    def _skip_list(self) -> int:
        kind = self._number("I")
        if kind != _STRING:
            size = struct.calcsize(self._scalar(kind))
            length = self._count("Q", size)
            self._skip(length * size)
            return length
        length = self._count("Q", 8)
        for _ in range(length):
            self._skip(self._count("Q", 1))
        return length

    def _scalar(self, kind: int) -> str:
        try:
            return _SCALARS[kind]
        except KeyError:
            raise self._damaged(f"a value has the type {kind}, which is unknown here") from None

    def _count(self, code: str, size: int) -> int:
        """A number of things of which each takes that many bytes or more."""
        count: int = self._number(code)
        if count * size > self._size - self._at:
            raise self._damaged(
                f"at byte {self._at:,} it claims {count:,} entries, and ends after {self._size:,}"
            )
        return count

    def _number(self, code: str) -> Any:
        return struct.unpack(self._order + code, self._bytes(struct.calcsize(code)))[0]

    def _text(self, longest: int) -> str:
        length = self._count("Q", 1)
        if length > longest:
            raise self._damaged(f"a name has {length:,} bytes")
        return self._decoded(self._bytes(length))

    def _decoded(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"a text before byte {self._at:,} is no UTF-8: {error}") from None

    def _bytes(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) < length:
            raise self._damaged(f"it ends within its header, after {self._at + len(data):,} bytes")
        self._at += length
        return data

    def _skip(self, length: int) -> None:
        self._at += length
        self._stream.seek(self._at)

    def _damaged(self, detail: str) -> ConversionError:
        return ConversionError(f"this GGUF file cannot be read: {detail}", self._location)
