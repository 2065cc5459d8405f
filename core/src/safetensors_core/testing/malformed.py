"""Headers that break one rule of the format each, with the code of that rule."""

from __future__ import annotations

from typing import NamedTuple

from safetensors_core.errors import Reason

__all__ = ["FIELDS", "LAYOUT", "MALFORMED", "TEXT", "Malformed"]


class Malformed(NamedTuple):
    r"""A file that must be rejected.

    Attributes:
        name: What is wrong with it.
        reason: The code of the rule that it breaks.
        header: The text of its header; the length in front of it is right.
        size: Bytes of data behind the header.

    Example:
        >>> Malformed("a list", Reason.NOT_AN_OBJECT, b"[]").file()
        b'\x02\x00\x00\x00\x00\x00\x00\x00[]'
    """

    name: str
    reason: Reason
    header: bytes
    size: int = 0

    def file(self) -> bytes:
        r"""The whole file.

        Example:
            >>> MALFORMED[0].file()
            b'\x00\x00\x00\x00\x00\x00\x00\x00'
        """
        return len(self.header).to_bytes(8, "little") + self.header + bytes(self.size)


def _entry(fields: str) -> bytes:
    return b'{"w":{%s}}' % fields.encode()


def _u8(shape: str, offsets: str = "[0,1]") -> bytes:
    return _entry(f'"dtype":"U8","shape":{shape},"data_offsets":{offsets}')


def _two(first: str, second: str) -> bytes:
    """Two tensors of one dimension, given by `dtype, shape, offsets`."""
    texts = []
    for name, text in (("a", first), ("b", second)):
        dtype, shape, begin, end = text.split()
        texts.append(
            f'"{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{begin},{end}]}}'
        )
    return ("{" + ",".join(texts) + "}").encode()


W = b'"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
DEEP = '"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":'

#: What breaks the rules of the text.
TEXT = [
    Malformed("no header", Reason.NOT_AN_OBJECT, b""),
    Malformed("spaces only", Reason.NOT_AN_OBJECT, b"        "),
    Malformed("a space in front", Reason.NOT_AN_OBJECT, b" {" + W + b"}", 1),
    Malformed("a line feed in front", Reason.NOT_AN_OBJECT, b"\n{}"),
    Malformed("a byte order mark", Reason.NOT_AN_OBJECT, b"\xef\xbb\xbf{}"),
    Malformed("a list", Reason.NOT_AN_OBJECT, b"[]"),
    Malformed("zeros", Reason.NOT_AN_OBJECT, bytes(8)),
    Malformed("not UTF-8", Reason.NOT_UTF8, b'{"\xff":1}'),
    Malformed("an encoded surrogate", Reason.NOT_UTF8, b'{"\xed\xa0\x80":1}'),
    Malformed("an overlong encoding", Reason.NOT_UTF8, b'{"\xc0\x80":1}'),
    Malformed("no end", Reason.INVALID_JSON, b"{"),
    Malformed("a trailing comma", Reason.INVALID_JSON, b"{" + W + b",}", 1),
    Malformed("a comma after the metadata", Reason.INVALID_JSON, b'{"__metadata__":{},}'),
    Malformed(
        "no comma after the metadata", Reason.INVALID_JSON, b'{"__metadata__":{}' + W + b"}", 1
    ),
    Malformed(
        "a space of another alphabet", Reason.INVALID_JSON, '{"__metadata__"\u00a0:{}}'.encode()
    ),
    Malformed("text behind", Reason.INVALID_JSON, b"{}x"),
    Malformed("a second document", Reason.INVALID_JSON, b"{}{}"),
    Malformed("zeros behind", Reason.INVALID_JSON, b"{" + W + b"}\x00\x00", 1),
    Malformed("a form feed behind", Reason.INVALID_JSON, b"{}\f"),
    Malformed("a comment", Reason.INVALID_JSON, b"{/**/}"),
    Malformed("single quotes", Reason.INVALID_JSON, b"{'w':{}}"),
    Malformed("a key without quotes", Reason.INVALID_JSON, b"{w:{}}"),
    Malformed("a control character", Reason.INVALID_JSON, W.join([b"{", b',"\n":{}}']), 1),
    Malformed("an unknown escape", Reason.INVALID_JSON, rb'{"\x41":{}}'),
    Malformed("NaN", Reason.INVALID_JSON, _entry(DEEP + "NaN"), 1),
    Malformed("minus infinity", Reason.INVALID_JSON, _entry(DEEP + "-Infinity"), 1),
    Malformed("a leading zero", Reason.INVALID_JSON, _u8("[01]"), 1),
    Malformed("a plus sign", Reason.INVALID_JSON, _u8("[+1]"), 1),
    Malformed("a float out of range", Reason.INVALID_JSON, _entry(DEEP + "1e400"), 1),
    Malformed("an integer out of range", Reason.INVALID_JSON, _entry(DEEP + "9" * 400), 1),
    Malformed("half a pair in a name", Reason.LONE_SURROGATE, rb'{"\ud83d":{}}'),
    Malformed(
        "half a pair in the metadata", Reason.LONE_SURROGATE, rb'{"__metadata__":{"a":"\udc00"}}'
    ),
    Malformed("half a pair nobody reads", Reason.LONE_SURROGATE, _entry(DEEP + r'["\ud800"]'), 1),
    Malformed("126 lists", Reason.TOO_DEEP, _entry(DEEP + "[" * 126 + "]" * 126), 1),
    Malformed("126 objects", Reason.TOO_DEEP, _entry(DEEP + '{"a":' * 126 + "1" + "}" * 126), 1),
]

#: What breaks the rules of entries and metadata.
FIELDS = [
    Malformed("a repeated tensor", Reason.DUPLICATE_NAME, b"{" + W + b"," + W + b"}", 1),
    Malformed(
        "a tensor repeated by an escape",
        Reason.DUPLICATE_NAME,
        b"{" + W + b"," + W.replace(b'"w"', rb'"\u0077"') + b"}",
        1,
    ),
    Malformed(
        "a repeated field",
        Reason.DUPLICATE_FIELD,
        _entry('"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]'),
        1,
    ),
    Malformed(
        "repeated metadata", Reason.DUPLICATE_METADATA, b'{"__metadata__":{},"__metadata__":{}}'
    ),
    Malformed(
        "metadata first and last",
        Reason.DUPLICATE_METADATA,
        b'{"__metadata__":{},' + W + b',"__metadata__":null}',
        1,
    ),
    Malformed("a number as metadata", Reason.INVALID_METADATA, b'{"__metadata__":1}'),
    Malformed("a list as metadata", Reason.INVALID_METADATA, b'{"__metadata__":[]}'),
    Malformed("a number in the metadata", Reason.INVALID_METADATA, b'{"__metadata__":{"a":1}}'),
    Malformed("null in the metadata", Reason.INVALID_METADATA, b'{"__metadata__":{"a":null}}'),
    Malformed(
        "a tensor as metadata",
        Reason.INVALID_METADATA,
        b"{" + W.replace(b'"w"', b'"__metadata__"') + b"}",
        1,
    ),
    Malformed("a list as entry", Reason.INVALID_ENTRY, b'{"w":["U8",[1],[0,1]]}', 1),
    Malformed("a string as entry", Reason.INVALID_ENTRY, b'{"w":"x"}'),
    Malformed("null as entry", Reason.INVALID_ENTRY, b'{"w":null}'),
    Malformed("no dtype", Reason.MISSING_FIELD, _entry('"shape":[1],"data_offsets":[0,1]'), 1),
    Malformed("no shape", Reason.MISSING_FIELD, _entry('"dtype":"U8","data_offsets":[0,1]'), 1),
    Malformed("no offsets", Reason.MISSING_FIELD, _entry('"dtype":"U8","shape":[1]'), 1),
    Malformed("an empty entry", Reason.MISSING_FIELD, _entry("")),
    Malformed(
        "an unknown dtype",
        Reason.UNKNOWN_DTYPE,
        _entry('"dtype":"F128","shape":[1],"data_offsets":[0,16]'),
        16,
    ),
    Malformed(
        "a dtype in lower case",
        Reason.UNKNOWN_DTYPE,
        _entry('"dtype":"u8","shape":[1],"data_offsets":[0,1]'),
        1,
    ),
    Malformed(
        "a number as dtype",
        Reason.UNKNOWN_DTYPE,
        _entry('"dtype":8,"shape":[1],"data_offsets":[0,1]'),
        1,
    ),
    *(
        Malformed(f"{shape} as shape", Reason.INVALID_SHAPE, _u8(shape), 1)
        for shape in ("[-1]", "[-0]", "[1.0]", "[1e0]", '["1"]', "[null]", "[[1]]", "1", "null")
    ),
    Malformed("a dimension of 65 bits", Reason.INVALID_SHAPE, _u8(f"[0,{2**64}]", "[0,0]")),
    *(
        Malformed(f"{offsets} as offsets", Reason.INVALID_OFFSETS, _u8("[1]", offsets), 1)
        for offsets in ("[]", "[0]", "[0,1,1]", "[-0,1]", "[0,1.0]", "[0,true]", "{}", '"0,1"')
    ),
    Malformed("a negative begin", Reason.INVALID_OFFSETS, _u8("[2]", "[-1,1]"), 1),
    Malformed("a negative end", Reason.INVALID_OFFSETS, _u8("[0]", "[0,-1]"), 0),
    Malformed("offsets of 65 bits", Reason.INVALID_OFFSETS, _u8("[1]", f"[0,{2**64}]"), 1),
]

#: What breaks the rules of the data's layout.
LAYOUT = [
    Malformed("an end before the begin", Reason.REVERSED_OFFSETS, _u8("[1]", "[1,0]"), 1),
    Malformed("a late begin", Reason.GAP, _u8("[1]", "[1,2]"), 2),
    Malformed("a gap", Reason.GAP, _two("U8 1 0 1", "U8 1 2 3"), 3),
    Malformed("an overlap", Reason.OVERLAP, _two("U8 2 0 2", "U8 2 1 3"), 3),
    Malformed("the same bytes twice", Reason.OVERLAP, _two("U8 2 0 2", "U8 2 0 2"), 2),
    Malformed("a gap in another order", Reason.GAP, _two("U8 1 2 3", "U8 1 0 1"), 3),
    Malformed("elements of 65 bits", Reason.SIZE_OVERFLOW, _u8(f"[{2**32},{2**32}]", "[0,0]")),
    Malformed(
        "elements of 65 bits, times 0", Reason.SIZE_OVERFLOW, _u8(f"[{2**32},{2**32},0]", "[0,0]")
    ),
    Malformed("bits of 65 bits", Reason.SIZE_OVERFLOW, _u8(f"[{2**61}]", "[0,0]")),
    Malformed("half a byte", Reason.PARTIAL_BYTE, _two("F4 3 0 2", "U8 0 2 2"), 2),
    Malformed("six bits", Reason.PARTIAL_BYTE, _two("F6_E2M3 1 0 1", "U8 0 1 1"), 1),
    Malformed("too few bytes", Reason.SIZE_MISMATCH, _u8("[2]"), 1),
    Malformed("too many bytes", Reason.SIZE_MISMATCH, _u8("[1]", "[0,2]"), 2),
    Malformed("bytes of a tensor without", Reason.SIZE_MISMATCH, _u8("[0]"), 1),
    Malformed("data that ends early", Reason.TRUNCATED, _u8("[4]", "[0,4]"), 3),
    Malformed("data behind the last tensor", Reason.TRAILING_DATA, _u8("[4]", "[0,4]"), 5),
    Malformed("data without a tensor", Reason.TRAILING_DATA, b"{}", 1),
]

#: All of them.
MALFORMED = [*TEXT, *FIELDS, *LAYOUT]
