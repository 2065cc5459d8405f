"""The same headers are accepted as by the reference implementation, and read the same.

Valid headers are mutated: first as documents (fields, numbers, names, offsets), then as bytes.
`SAFETENSORS_TEST_EXAMPLES=200000` in the environment searches for longer.
"""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from typing import Any

import safetensors
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from safetensors_core import Dtype, Header, HeaderError, Reason, parse_header

EXAMPLES = int(os.environ.get("SAFETENSORS_TEST_EXAMPLES", "500"))
searching = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

U64_MAX = 2**64 - 1
WHITE_SPACE = b" \t\n\r"

# Fragments of JSON that stand where a value or a key is expected.
NUMBERS = [
    *("0", "1", "2", "8", "-0", "-1", "1.0", "0.0", "1e2", "1E0", "1e-1", "0e0", "00", "01", "+1"),
    *(".5", "1.", "1e", "0x1", "-", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity"),
    *(str(2**63 - 1), str(2**63), str(U64_MAX), str(U64_MAX + 1), str(10**19), str(10**40)),
    *(str(2**32), str(2**62), "9" * 400, "-" + "9" * 30, "0" * 30, "1" + "0" * 310),
    *("-9223372036854775808", "-9223372036854775809", "1" * 20, "1.5e3", "18446744073709551615.0"),
]
STRINGS = [
    *('""', '"w"', '"F32"', '"f32"', '"F4"', '"F6_E2M3"', '"F8_E4M3"', '"F\\u00332"', '"U8 "'),
    *('"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\udc00\\ud800"', '"\\ud800x"', '"\\u0000"'),
    *('"\\n"', '"\\/"', '"\\x41"', '"\\u12"', '"\\u12G4"', '"\t"', '"\x00"', '"\x7f"', '"\x1f"'),
    *('"é"', '"\U0001f600"', '"\ufeff"', '"\u2028"', '"\\\\"', '"\\""', '"', '"\\"', "'w'"),
    *(
        '"a:b"',
        '"\\\\:"',
        '"{"',
        '"}"',
        '"[,]"',
        '"__metadata__"',
        '"__metadata\\u005f_"',
        '"dtype"',
    ),
    *(
        '"shape"',
        '"data_offsets"',
        '"d\\u0074ype"',
        '"\\uD834\\uDD1E"',
        '"\\b\\f\\r\\t"',
        '"\\ud800\\u0041"',
    ),
]
OTHERS = [
    "null",
    "true",
    "false",
    "True",
    "nul",
    "",
    ",",
    "{}",
    "[]",
    "[[]]",
    "[{}]",
    "[1,2,]",
    "{,}",
]
ROOM = [*map(chr, WHITE_SPACE), "  ", "\u00a0", "\u3000", "\f", "\v", "\ufeff", "/**/", "\x00"]

scalars = st.sampled_from([*NUMBERS, *STRINGS, *OTHERS])
keys = st.one_of(st.sampled_from(STRINGS), st.text(max_size=4).map(json.dumps))
valid_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=5,
).map(json.dumps)


@st.composite
def nested(draw: st.DrawFn) -> str:
    """A value that nests close to the depth at which the reference gives up."""
    depth = draw(st.integers(100, 140))
    inner = draw(
        st.sampled_from(["", "1", "[]", "{}", '"x"', '{"a":1}', "[1,[2]]", "null", "1e400"])
    )
    kinds = draw(st.sampled_from(["lists", "objects", "both"]))
    objects = [kinds == "objects" or (kinds == "both" and i % 2 == 1) for i in range(depth)]
    if inner == "" and objects[-1]:
        inner = "0"
    opening = "".join('{"a":' if is_object else "[" for is_object in objects)
    closing = "".join("}" if is_object else "]" for is_object in reversed(objects))
    return opening + inner + closing


values = st.one_of(scalars, scalars, valid_values, nested())

Fields = list[list[str]]  # key and value of each field, as JSON
Document = list[list[Any]]  # key of each member as JSON, and its fields or its value as JSON

dimensions = st.sampled_from([0, 1, 1, 2, 2, 3, 4, 5, 8])
dtypes = st.sampled_from([*Dtype, Dtype.F4, Dtype.F6_E2M3, Dtype.U8, Dtype.U8])


@st.composite
def documents(draw: st.DrawFn) -> tuple[Document, int]:
    """A valid header, and the size of the data that it describes."""
    names = draw(
        st.lists(st.text(max_size=5) | st.sampled_from(["a", "b", "c"]), max_size=4, unique=True)
    )
    document: Document = []
    position = 0
    for name in names:
        dtype = draw(dtypes)
        shape = draw(st.lists(dimensions, max_size=3))
        bits = prod(shape) * dtype.bits
        if bits % 8:
            shape.append(4)
            bits *= 4
        end = position + bits // 8
        fields = [
            ['"dtype"', json.dumps(dtype)],
            ['"shape"', json.dumps(shape, separators=(",", ":"))],
            ['"data_offsets"', f"[{position},{end}]"],
        ]
        document.append([json.dumps(name, ensure_ascii=draw(st.booleans())), fields])
        position = end
    if draw(st.integers(0, 3)) == 0:
        metadata = draw(
            st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=3)
        )
        place = draw(st.integers(0, len(document)))
        document.insert(place, ['"__metadata__"', json.dumps(metadata)])
    if draw(st.booleans()):
        document = draw(st.permutations(document))
    return document, position


def mutate_document(draw: st.DrawFn, document: Document) -> None:
    """Change one member of a header, or one field of one."""
    entries = [member for member in document if isinstance(member[1], list)]
    kind = draw(st.sampled_from(["member", "repeat", "array", "field", "field", "field", "field"]))
    if kind == "member" or not entries:
        place = draw(st.integers(0, len(document)))
        key = draw(keys | st.just('"__metadata__"'))
        value = draw(values | st.just('{"a":"b"}') | st.lists(values, max_size=2).map(as_metadata))
        document.insert(place, [key, value])
        return
    member = draw(st.sampled_from(entries))
    if kind == "repeat":
        copy = [member[0], [list(field) for field in member[1]]]
        document.insert(draw(st.integers(0, len(document))), copy)
    elif kind == "array":
        chosen = draw(st.sampled_from([member[1], member[1][:2], [*member[1], *member[1]]]))
        member[1] = "[" + ",".join(value for _, value in chosen) + "]"
    else:
        mutate_fields(draw, member[1])


def as_metadata(found: list[str]) -> str:
    return "{" + ",".join(f'"{i}":{value}' for i, value in enumerate(found)) + "}"


def mutate_fields(draw: st.DrawFn, fields: Fields) -> None:
    kind = draw(
        st.sampled_from(["value", "add", "numbers", "numbers", "numbers", "drop", "order", "key"])
    )
    if kind == "add" or not fields:
        key = draw(keys | st.sampled_from(['"dtype"', '"shape"', '"data_offsets"']))
        fields.insert(draw(st.integers(0, len(fields))), [key, draw(values)])
        return
    field = draw(st.sampled_from(fields))
    if kind == "value":
        field[1] = draw(values | st.sampled_from([json.dumps(dtype) for dtype in Dtype]))
    elif kind == "drop":
        fields.remove(field)
    elif kind == "order":
        fields.reverse()
    elif kind == "key":
        field[0] = draw(keys)
    elif kind == "numbers":
        items = field[1].strip("[]").split(",") if field[1].startswith("[") else []
        number = draw(st.sampled_from(NUMBERS) | st.integers(0, 40).map(str) | st.just("null"))
        place = draw(st.integers(0, len(items)))
        items[place : place + draw(st.integers(0, 1))] = [number]
        field[1] = "[" + ",".join(item for item in items if item) + "]"


def render(draw: st.DrawFn, document: Document) -> str:
    room = [""] * 6
    if draw(st.integers(0, 4)) == 0:
        room[draw(st.integers(0, 5))] = draw(st.sampled_from(ROOM))
    before, after_brace, after_key, after_colon, after_value, end = room
    members = []
    for key, value in document:
        if isinstance(value, list):
            value = "{" + ",".join(f"{k}:{v}" for k, v in value) + "}"
        members.append(f"{after_brace}{key}{after_key}:{after_colon}{value}{after_value}")
    return before + "{" + ",".join(members) + "}" + end


def mutate_bytes(draw: st.DrawFn, text: bytes) -> bytes:
    """Insert, remove or replace a few bytes."""
    place = draw(st.integers(0, len(text)))
    removed = draw(st.integers(0, 3))
    pieces = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"-",
        b"0",
        b"\x00",
        b"\xff",
        b"\xc3",
    ]
    inserted = draw(
        st.sampled_from([b"", *pieces, b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf"])
        | st.binary(max_size=2)
    )
    return text[:place] + inserted + text[place + removed :]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file whose header may be wrong in a few ways at once."""
    document, size = draw(documents())
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        mutate_document(draw, document)
    text = render(draw, document).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        text = mutate_bytes(draw, text)
    length = len(text)
    if draw(st.integers(0, 9)) == 0:
        text += draw(st.sampled_from([b" ", b"       ", b"\n", b"\x00", b"{}", b" x"]))
        length = draw(st.sampled_from([length, len(text), len(text), len(text)]))
    if draw(st.integers(0, 9)) == 0:
        size = max(0, size + draw(st.sampled_from([-1, 1, 8])))
    if draw(st.integers(0, 29)) == 0:
        length = draw(
            st.sampled_from([0, 1, length + 1, length + size, 10**8, 10**8 + 1, 2**63, U64_MAX])
        )
    data = bytes(i % 251 for i in range(size))
    whole = length.to_bytes(8, "little") + text + data
    return whole[: draw(st.integers(0, 12))] if draw(st.integers(0, 99)) == 0 else whole


def reference_reads(data: bytes) -> dict[str, dict[str, Any]] | None:
    """What the reference makes of a file; None if it rejects it."""
    try:
        return dict(safetensors.deserialize(data))
    except safetensors.SafetensorError:
        return None


class Members(list[tuple[str, Any]]):
    """The members of a JSON object, told apart from an array."""


def is_stricter(data: bytes, reason: Reason) -> bool:
    """Whether a file breaks the written format in the way that `reason` says."""
    text = data[8 : 8 + int.from_bytes(data[:8], "little")]
    if reason is Reason.NOT_AN_OBJECT:
        return text[0] in WHITE_SPACE
    members = json.loads(text, object_pairs_hook=Members)
    if reason is Reason.DUPLICATE_NAME:
        return len({name for name, _ in members}) < len(members)
    return reason is Reason.INVALID_ENTRY and any(
        type(value) is list for name, value in members if name != "__metadata__"
    )


def our_reading(data: bytes) -> Header | HeaderError:
    """What we make of a file, or why we reject it."""
    try:
        return parse_header(data)
    except HeaderError as error:
        return error


def check_agreement(data: bytes, folder: Path) -> None:
    expected = reference_reads(data)
    header = our_reading(data)
    if isinstance(header, HeaderError):
        event(header.reason)
        assert expected is None or is_stricter(data, header.reason), header
        return
    event("accepted")
    assert expected is not None
    assert {
        name: (info.dtype, list(info.shape), data[header.data_start :][slice(*info.data_offsets)])
        for name, info in header.tensors.items()
    } == {
        name: (tensor["dtype"], tensor["shape"], bytes(tensor["data"]))
        for name, tensor in expected.items()
    }
    if b"_metadata" in data:
        path = folder / "file.safetensors"
        path.write_bytes(data)
        with safetensors.safe_open(path, "np") as file:
            assert header.metadata == file.metadata()


@searching
@given(data=files())
def test_a_header_is_accepted_exactly_when_the_reference_accepts_it(
    data: bytes, tmp_path: Path
) -> None:
    check_agreement(data, tmp_path)


lengths = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 2**16, 2**32, 2**33, 2**60, 2**61, 2**63, U64_MAX])


@st.composite
def layouts(draw: st.DrawFn) -> bytes:
    """A well-formed header whose sizes and offsets may contradict each other."""
    document: dict[str, Any] = {}
    position = 0
    for i in range(draw(st.integers(1, 4))):
        dtype = draw(dtypes)
        shape = draw(st.lists(lengths, max_size=4))
        nbytes = prod(shape) * dtype.bits // 8
        end = position + (nbytes if nbytes < 100 else draw(st.sampled_from([0, 8])))
        document[str(i)] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    if draw(st.booleans()):
        offsets = draw(st.sampled_from(list(document.values())))["data_offsets"]
        place = draw(st.integers(0, 1))
        step = draw(st.sampled_from([-8, -2, -1, 1, 2, 8, 2**63, U64_MAX]))
        offsets[place] = max(0, offsets[place] + step)
    shuffled = dict(draw(st.permutations(list(document.items()))))
    text = json.dumps(shuffled).encode()
    size = max(0, position + draw(st.sampled_from([0, 0, 0, 0, -1, 1])))
    return len(text).to_bytes(8, "little") + text + bytes(size)


@searching
@given(data=layouts())
def test_sizes_and_offsets_are_accepted_exactly_when_the_reference_accepts_them(
    data: bytes, tmp_path: Path
) -> None:
    check_agreement(data, tmp_path)
