"""Bytes ↔ `Header`: all validation of the format happens here.

A header is rejected before anything is allocated from what it claims, in time and memory
proportional to its own length. Well-formed headers take a typed decode by msgspec, followed by
one count that proves that nothing was repeated or ignored; whatever the count cannot prove goes
to the exact reader in `strict_json`, which names the broken rule.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from safetensors_core import collector, strict_json
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import HeaderError, InvalidInputError, Reason
from safetensors_core.signatures import recognise
from safetensors_core.sizes import size_text
from safetensors_core.tiling import in_file_order

__all__ = [
    "MAX_HEADER",
    "Header",
    "TensorInfo",
    "encode_header",
    "header_length",
    "parse_header",
]

#: Longest header that is read unless the caller allows more, in bytes: the reference's limit.
MAX_HEADER = 100_000_000

_PIECE = 64 * 1024  # bytes of a header that are looked at together
_PREFIX = 8  # bytes of the little-endian header length in front of the header
# White space is JSON's: `\s` would also match what a JSON reader must refuse.
_METADATA_FIRST = re.compile(rb'\{"__metadata__"[ \t\n\r]*:[ \t\n\r]*')
_AFTER_METADATA = re.compile(rb'[ \t\n\r]*(?:,[ \t\n\r]*(?=")|(?=\}))')


class TensorInfo(msgspec.Struct, frozen=True, gc=False):
    """What a header says of one tensor.

    Attributes:
        dtype: Element type.
        shape: Elements per dimension, outermost first; empty for a scalar.
        data_offsets: First byte and the byte after the last one. In a header they count from
            the end of the header; in what `ByteSource.fetch` returns, from the buffer's start.

    Example:
        >>> info = TensorInfo(Dtype.F32, (2, 3), (0, 24))
        >>> info.nbytes
        24
    """

    dtype: Dtype
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data in bytes.

        Example:
            >>> TensorInfo(Dtype.U8, (5,), (10, 15)).nbytes
            5
        """
        begin, end = self.data_offsets
        return end - begin


class Header(msgspec.Struct, frozen=True):
    """A validated header.

    Attributes:
        tensors: The entries, ordered by offset. Not to be modified.
        metadata: The `__metadata__` entry; None where the file has none.
        length: Length of the JSON with its padding, in bytes.

    Example:
        >>> header = Header({"w": TensorInfo(Dtype.F32, (2,), (0, 8))}, None, 64)
        >>> header.data_start, header.data_nbytes, header.file_nbytes
        (72, 8, 80)
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str] | None
    length: int

    @property
    def data_start(self) -> int:
        """Offset in the file of the first byte of data.

        Example:
            >>> Header({}, None, 8).data_start
            16
        """
        return _PREFIX + self.length

    @property
    def data_nbytes(self) -> int:
        """Size of all tensors together, in bytes.

        Example:
            >>> Header({}, None, 8).data_nbytes
            0
        """
        return next(reversed(self.tensors.values())).data_offsets[1] if self.tensors else 0

    @property
    def file_nbytes(self) -> int:
        """Size of the whole file, in bytes.

        Example:
            >>> Header({}, None, 8).file_nbytes
            16
        """
        return self.data_start + self.data_nbytes


_NEGATIVE_ZERO = re.compile(rb"[\[,][ \t\n\r]*-0")

_decoder = msgspec.json.Decoder(dict[str, TensorInfo])


def header_length(beginning: bytes, *, size: int, max_header: int = MAX_HEADER) -> int:
    r"""Read the length of the header from a file's first bytes.

    Args:
        beginning: The file's first bytes: 8 suffice, more let foreign formats be recognised.
        size: Size of the file in bytes.
        max_header: Longest header to accept, in bytes.

    Returns:
        Length of the header's JSON in bytes, without the 8 bytes in front of it.

    Raises:
        HeaderError: The file cannot hold such a header, or is something else.

    Example:
        >>> header_length(b"\x02" + bytes(7), size=10)
        2
    """
    if size < _PREFIX:
        if size == 0:
            raise HeaderError(Reason.EMPTY, "the file is empty: a safetensors file has a header")
        raise recognise(beginning, size) or HeaderError(
            Reason.TOO_SHORT, f"the file has {size} bytes; the shortest valid one has 10"
        )
    length = int.from_bytes(beginning[:_PREFIX], "little")
    if length > max_header or length + _PREFIX > size:
        foreign = recognise(beginning, size)
        if foreign is not None:
            raise foreign
    if length > max_header and length + _PREFIX > size:
        raise HeaderError(
            Reason.HEADER_TOO_LARGE,
            f"the file has {size:,} bytes, but its first 8 stand for a header of {length:,}: it is "
            "no safetensors file, or damaged",
        )
    if length > max_header:
        raise HeaderError(
            Reason.HEADER_TOO_LARGE,
            f"the header claims {length:,} bytes, more than the limit of {max_header:,}; "
            f"pass max_header={length} if the file is to be trusted",
        )
    if length + _PREFIX > size:
        raise HeaderError(
            Reason.HEADER_TRUNCATED,
            f"the file has {size:,} bytes and ends inside its header, which needs "
            f"{length + _PREFIX:,}: the download or copy is incomplete",
        )
    return length


def parse_header(
    data: bytes | bytearray | memoryview,
    *,
    size: int | None = None,
    max_header: int = MAX_HEADER,
) -> Header:
    """Validate and decode the header of a safetensors file.

    Args:
        data: The file's bytes, or its beginning up to the end of the header at least.
        size: Size of the file in bytes; the length of `data` by default.
        max_header: Longest header to accept, in bytes.

    Returns:
        The header, which borrows nothing from `data`.

    Raises:
        HeaderError: The bytes break a rule of the format; `reason` says which.
        InvalidInputError: `data` ends before the header does although the file is longer.

    Example:
        >>> text = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        >>> data = len(text).to_bytes(8, "little") + text + bytes(8)
        >>> parse_header(data).tensors["w"].shape
        (2,)
    """
    with _bytes_of(data) as view:
        size = len(view) if size is None else size
        beginning = bytes(view[:1024])
        length = header_length(beginning, size=size, max_header=max_header)
        end = _PREFIX + length
        if len(view) < end:
            raise InvalidInputError(
                f"the header ends at byte {end:,} of the file, but only {len(view):,} were given"
            )
        if beginning[_PREFIX : _PREFIX + 1] != b"{" or length == 0:
            raise recognise(beginning, size) or HeaderError(
                Reason.NOT_AN_OBJECT,
                f"the header must begin with '{{', found {beginning[_PREFIX : _PREFIX + 1]!r}",
            )
        with view[_PREFIX:end] as text, collector.paused():
            tensors, metadata = _decode(text)
            ordered = in_file_order(tensors)
    header = Header(ordered, metadata, length)
    _check_size(header, size)
    return header


def _bytes_of(data: object) -> memoryview:
    try:
        return memoryview(data).cast("B")  # type: ignore[arg-type]
    except (BufferError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"expected the bytes of a safetensors file, got {type(data).__name__}: {error}"
        ) from None


def _decode(text: memoryview) -> tuple[dict[str, TensorInfo], dict[str, str] | None]:
    """Decode the JSON of a header, by the fast way where its result can be proved right.

    That way makes no copy of the text: new pages for one would cost a tenth of the whole.
    """
    metadata = None
    rest: memoryview | bytes = text
    first = _METADATA_FIRST.match(text)
    if first is not None:
        metadata, end = _read_metadata(text, first.end())
        after = _AFTER_METADATA.match(text, end)
        if after is None:
            return _decode_strictly(text)
        rest = b"".join([b"{", text[after.end() :]])
    try:
        tensors = _decoder.decode(rest)
    except RecursionError:
        raise HeaderError(Reason.TOO_DEEP, "the header nests too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_strictly(text)
    seen = _look(memoryview(rest))
    if not seen.ascii:
        _as_text(text)  # also what the decoder has passed over must be UTF-8
    if _nothing_repeated_or_ignored(rest, seen, tensors) and "__metadata__" not in tensors:
        return tensors, metadata
    return _decode_strictly(text)


class _Seen(NamedTuple):
    """Which characters a text has: how many colons, and whether there are any of the others."""

    colons: int
    ascii: bool
    backslash: bool
    minus: bool


def _look(text: memoryview) -> _Seen:
    """Look at a text piece by piece, each copied to where the one before was."""
    colons, ascii_only, backslash, minus = 0, True, False, False
    for begin in range(0, len(text), _PIECE):
        piece = bytes(text[begin : begin + _PIECE])
        colons += piece.count(b":")
        ascii_only = ascii_only and piece.isascii()
        backslash = backslash or b"\\" in piece
        minus = minus or b"-" in piece
    return _Seen(colons, ascii_only, backslash, minus)


def _as_text(text: memoryview) -> str:
    try:
        return str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise HeaderError(
            Reason.NOT_UTF8, f"the header is not UTF-8 at its byte {error.start}"
        ) from None


def _read_metadata(text: memoryview, start: int) -> tuple[dict[str, str] | None, int]:
    """The metadata and the position after it, mostly from the first bytes of a header alone."""
    with contextlib.suppress(HeaderError, UnicodeDecodeError):
        beginning = str(text[:_PIECE], "ascii")
        return strict_json.read_metadata(beginning, start)
    whole = _as_text(text)
    metadata, end = strict_json.read_metadata(whole, start)
    return metadata, end if len(whole) == len(text) else len(whole[:end].encode())


def _nothing_repeated_or_ignored(
    text: memoryview | bytes, seen: _Seen, tensors: Mapping[str, TensorInfo]
) -> bool:
    """Whether the text of a decoded header can hold nothing that the decoder passed over.

    Every key of JSON is followed by one colon, an entry has one key and three fields, and the
    decoder has seen each field at least once. Repeated or unknown keys add colons; only colons
    inside of names need to be told apart from them.
    """
    expected = 4 * len(tensors)
    if seen.colons != expected:
        if seen.backslash:
            return False
        expected += sum(name.count(":") for name in tensors)
    # msgspec reads -0 as 0, which the format does not allow.
    return seen.colons == expected and not (seen.minus and _NEGATIVE_ZERO.search(text))


def _decode_strictly(text: memoryview) -> tuple[dict[str, TensorInfo], dict[str, str] | None]:
    entries, metadata = strict_json.read_header(_as_text(text))
    return {name: TensorInfo(*entry) for name, entry in entries.items()}, metadata


def _check_size(header: Header, size: int) -> None:
    missing = header.file_nbytes - size
    if missing > 0:
        raise HeaderError(
            Reason.TRUNCATED,
            f"the file has {size:,} bytes and ends {size_text(missing)} short of what its header "
            f"describes ({header.file_nbytes:,} bytes): the download or copy is incomplete",
        )
    if missing < 0:
        raise HeaderError(
            Reason.TRAILING_DATA,
            f"the file has {size:,} bytes, {size_text(-missing)} more than its header describes "
            f"({header.file_nbytes:,} bytes)",
        )


def encode_header(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None, *, alignment: int = 8
) -> bytes:
    """Encode a header with the length in front of it.

    Args:
        tensors: The entries in the order in which they are to be written.
        metadata: Strings by name, written sorted; None for no `__metadata__` entry.
        alignment: The data begins at a multiple of this many bytes.

    Returns:
        The first bytes of the file: length, JSON and padding.

    Raises:
        InvalidInputError: A string cannot be encoded as UTF-8.

    Example:
        >>> encode_header({"w": TensorInfo(Dtype.U8, (3,), (0, 3))}, None)[8:]
        b'{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}   '
    """
    document: dict[str, object] = {}
    if metadata is not None:
        document["__metadata__"] = dict(sorted(metadata.items()))
    document.update(tensors)
    text = msgspec.json.encode(document)
    length = -(-(len(text) + _PREFIX) // alignment) * alignment - _PREFIX
    return length.to_bytes(_PREFIX, "little") + text.ljust(length)
