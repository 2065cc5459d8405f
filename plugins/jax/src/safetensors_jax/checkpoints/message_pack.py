"""msgpack as Flax writes it, parsed without reading arrays or believing what lengths claim."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from safetensors_core import ConversionError

__all__ = ["Other", "PackedArray", "looks_like_flax", "parse_flax"]

# Flax's own numbers for what msgpack lacks.
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"

_MAX_VALUES = 1_000_000
_MAX_DEPTH = 100
_MAX_DIMENSIONS = 64  # as NumPy
_LONGEST_TEXT = 2**16  # bytes

# Tags that hold a length or a number themselves: those below the first of each line.
_SHORT = ((0x80, "plain", 0x7F), (0x90, "map", 0x0F), (0xA0, "list", 0x0F), (0xC0, "text", 0x1F))
_CONSTANTS = {
    0xC0: None,
    0xC2: False,
    0xC3: True,
    **{tag: tag - 0x100 for tag in range(0xE0, 0x100)},
}
_NUMBERS = {
    tag: struct.Struct(f">{code}")
    for tag, code in zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True)
}
_FIXED_EXTENSIONS = {0xD4 + power: 1 << power for power in range(5)}
# Tags that a length follows: the kind of value, and the bytes of the length.
_SIZED = {
    **{0xC4 + i: ("bytes", 1 << i) for i in range(3)},
    **{0xC7 + i: ("extension", 1 << i) for i in range(3)},
    **{0xD9 + i: ("text", 1 << i) for i in range(3)},
    **{0xDC + i: ("list", 2 << i) for i in range(2)},
    **{0xDE + i: ("map", 2 << i) for i in range(2)},
}

# A map whose first key is a text.
_MAP = re.compile(rb"(?:[\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9]", re.DOTALL)
# An array: a list of three, of which the first is a list of numbers and the second a dtype's name.
_DTYPE = re.compile(
    rb"[\x01\x03]\x93[\x90-\x9f][\x00-\x7f\xcc-\xcf].{0,80}?[\xa4-\xbf](?:b?float|u?int|bool|complex)"
    rb"|[\x01\x03]\x93\x90[\xa4-\xbf](?:b?float|u?int|bool|complex)",
    re.DOTALL,
)


class PackedArray(NamedTuple):
    """An array in the file.

    Attributes:
        shape: Elements per dimension.
        dtype: As NumPy calls it.
        pieces: Offset and length of its bytes, in order; more than one for arrays over 1 GiB.

    Example:
        >>> PackedArray((2,), "uint8", ((13, 2),)).dtype
        'uint8'
    """

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[tuple[int, int], ...]


class Other(NamedTuple):
    """A value that is no tensor and no plain text or number.

    Attributes:
        description: What it is.

    Example:
        >>> Other("a complex number").description
        'a complex number'
    """

    description: str


def looks_like_flax(head: bytes, *, named: bool) -> bool:
    """Whether a file is one that Flax wrote.

    Args:
        head: Its first bytes.
        named: Whether its name ends in ``.msgpack``, so that no array need be seen.

    Returns:
        True if it is, as far as these bytes say.

    Example:
        >>> looks_like_flax(bytes.fromhex("81a177c71201 930191a7"), named=False)
        False
    """
    # A pickle begins like an empty map, HDF5 like one with numbers for keys.
    return bool(_MAP.match(head)) and (named or bool(_DTYPE.search(head)))


def parse_flax(file: IO[bytes], size: int, location: str) -> Any:
    """Parse a file that Flax wrote. Only what stands between arrays is read.

    Args:
        file: Open for reading.
        size: Bytes of the file.
        location: The file as errors show it.

    Returns:
        Nested dicts, lists as dicts of their indices. Leaves are `PackedArray`, `Other`, or texts
        and numbers.

    Raises:
        ConversionError: It is damaged, or claims more than it can hold.

    Example:
        >>> import io
        >>> parse_flax(io.BytesIO(bytes.fromhex("81a47374657003")), 7, "a.msgpack")
        {'step': 3}
    """
    parser = _Parser(file, size, location)
    tree = parser.value(0)
    if parser.at != size:
        raise parser.damaged(f"{size - parser.at:,} bytes follow the tree")
    return tree


class _Parser:
    def __init__(self, file: IO[bytes], size: int, location: str) -> None:
        self._file = file
        self._end = size
        self._location = location
        self._values = 0
        self.at = 0
        self._readers: dict[str, Callable[[int, int], Any]] = {
            "bytes": self._bytes,
            "extension": self._extension,
            "list": self._list,
            "map": self._map,
            "text": self._text,
        }

    def damaged(self, what: str) -> ConversionError:
        return ConversionError(
            f"at byte {self.at:,}: {what}: this is no whole Flax file", self._location
        )

    def value(self, depth: int) -> Any:
        """The next value, of any kind."""
        self._values += 1
        if self._values > _MAX_VALUES:
            raise self.damaged(f"more than {_MAX_VALUES:,} values")
        kind, argument = self._begin()
        if kind == "plain":
            return argument
        return self._readers[kind](argument, depth)

    def _begin(self) -> tuple[str, Any]:
        """Kind and length of the next value, or the value itself where it is a number."""
        tag = self._take(1)[0]
        for end, kind, mask in _SHORT:
            if tag < end:
                return kind, tag & mask
        if tag in _SIZED:
            kind, width = _SIZED[tag]
            return kind, int.from_bytes(self._take(width), "big")
        if tag in _FIXED_EXTENSIONS:
            return "extension", _FIXED_EXTENSIONS[tag]
        if tag in _NUMBERS:
            form = _NUMBERS[tag]
            return "plain", form.unpack(self._take(form.size))[0]
        if tag in _CONSTANTS:
            return "plain", _CONSTANTS[tag]
        raise self.damaged(f"{tag:#x} begins no value")

    def _claim(self, length: int) -> None:
        if length > self._end - self.at:
            raise self.damaged(
                f"{length:,} bytes should follow, and there are {self._end - self.at:,}"
            )

    def _take(self, length: int) -> bytes:
        self._claim(length)
        data = self._file.read(length)
        if len(data) != length:
            raise self.damaged("the file became shorter")
        self.at += length
        return data

    def _skip(self, length: int) -> int:
        """Where the bytes begin that are passed over."""
        self._claim(length)
        begin = self.at
        self.at += length
        self._file.seek(self.at)
        return begin

    def _text(self, length: int, _depth: int) -> str | Other:
        if length > _LONGEST_TEXT:
            self._skip(length)
            return Other(f"a text of {length:,} bytes")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise self.damaged("a text is not UTF-8") from None

    def _bytes(self, length: int, _depth: int) -> Other:
        self._skip(length)
        return Other("bytes, not a tensor")

    def _list(self, length: int, depth: int) -> dict[str, Any]:
        self._enter(length, depth)
        return {str(i): self.value(depth + 1) for i in range(length)}

    def _map(self, length: int, depth: int) -> Any:
        self._enter(2 * length, depth)
        tree: dict[str, Any] = {}
        for _ in range(length):
            kind, key = self._begin()
            if kind == "text":
                key = self._text(key, depth)
            if (
                not isinstance(key, str | int)
                or isinstance(key, bool)
                or kind not in {"text", "plain"}
            ):
                raise self.damaged("a key is neither a short text nor a number")
            if str(key) in tree:
                raise self.damaged(f"the key {str(key)!r} stands twice in one map")
            tree[str(key)] = self.value(depth + 1)
        return self._joined(tree) if _CHUNKED in tree else tree

    def _enter(self, values: int, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            raise self.damaged(f"trees are nested more than {_MAX_DEPTH} deep")
        self._claim(values)  # each is one byte at least

    def _extension(self, length: int, _depth: int) -> PackedArray | Other:
        code = self._take(1)[0]
        self._claim(length)
        if code not in {_ARRAY, _SCALAR}:
            self._skip(length)
            return Other("a complex number" if code == _COMPLEX else f"msgpack extension {code}")
        outer, self._end = self._end, self.at + length
        array = self._array()
        if self.at != self._end:
            raise self.damaged("bytes follow the data of an array")
        self._end = outer
        return array

    def _array(self) -> PackedArray:
        if self._begin() != ("list", 3):
            raise self.damaged("an array is not made of shape, dtype and data")
        kind, dimensions = self._begin()
        if kind != "list" or dimensions > _MAX_DIMENSIONS:
            raise self.damaged("an array has no valid shape")
        sizes = [self._begin() for _ in range(dimensions)]
        if any(kind != "plain" or type(size) is not int or size < 0 for kind, size in sizes):
            raise self.damaged("an array has no valid shape")
        kind, length = self._begin()
        if kind not in {"text", "bytes"} or length > 100:
            raise self.damaged("an array has no valid dtype")
        dtype = self._take(length).decode("ascii", "backslashreplace")
        if not dtype.isprintable():
            raise self.damaged("an array has no valid dtype")
        kind, length = self._begin()
        if kind not in {"text", "bytes"}:
            raise self.damaged("an array has no data")
        return PackedArray(tuple(size for _, size in sizes), dtype, ((self._skip(length), length),))

    def _joined(self, tree: dict[str, Any]) -> PackedArray:
        """An array that was stored in several, because msgpack ends at 4 GiB."""
        shape, chunks = tree.get("shape"), tree.get("chunks")
        if not isinstance(shape, dict) or not isinstance(chunks, dict):
            raise self.damaged("an array in chunks lacks its shape or its chunks")
        sizes: list[Any] = [shape.get(str(i)) for i in range(len(shape))]
        parts = [chunks.get(str(i)) for i in range(len(chunks))]
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise self.damaged("an array in chunks has no valid shape")
        if not parts or len(sizes) > _MAX_DIMENSIONS:
            raise self.damaged("an array in chunks has no chunks, or too many dimensions")
        arrays = [part for part in parts if isinstance(part, PackedArray)]
        if len(arrays) != len(parts) or len({array.dtype for array in arrays}) != 1:
            raise self.damaged("the chunks of an array are not all arrays of one dtype")
        pieces = tuple(piece for array in arrays for piece in array.pieces)
        return PackedArray(tuple(sizes), arrays[0].dtype, pieces)
