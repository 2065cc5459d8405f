"""What a header may be, what it may not be, and what an error says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, counting, file_bytes, with_length
from safetensors_core import (
    Dtype,
    Header,
    HeaderError,
    InvalidInputError,
    Reason,
    TensorInfo,
    load,
    load_file,
    parse_header,
    read_header,
    safe_open,
)
from safetensors_core.testing.malformed import FIELDS, MALFORMED, Malformed

RAW = RawFramework()
W = b'"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
READERS: dict[str, Callable[..., Any]] = {
    "read_header": read_header,
    "safe_open mmap": lambda path, **options: safe_open(path, RAW, backend="mmap", **options),
    "safe_open pread": lambda path, **options: safe_open(path, RAW, backend="pread", **options),
    "load_file": lambda path, **options: load_file(path, RAW, **options),
    "load": lambda path, **options: load(path.read_bytes(), RAW, **options),
    "parse_header": lambda path, **options: parse_header(path.read_bytes(), **options),
}
IN_MEMORY = ("load", "parse_header")


@pytest.fixture(params=list(READERS.values()), ids=list(READERS))
def reader(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Each function that reads a header from a file."""
    chosen: Callable[..., Any] = request.param
    return chosen


def rejection(data: bytes, **options: Any) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        parse_header(data, **options)
    return caught.value


def tensors_of(header: bytes, size: int = 0) -> dict[str, TensorInfo]:
    return parse_header(with_length(header, bytes(size))).tensors


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_a_malformed_header_is_rejected_with_its_own_reason(case: Malformed) -> None:
    assert rejection(with_length(case.header, bytes(case.size))).reason is case.reason


def test_every_reason_but_those_of_whole_files_has_a_malformed_header() -> None:
    whole_files = {
        *(Reason.EMPTY, Reason.TOO_SHORT, Reason.HEADER_TOO_LARGE, Reason.HEADER_TRUNCATED),
        *(Reason.GIT_LFS_POINTER, Reason.HTML_PAGE, Reason.ZIP_ARCHIVE, Reason.PICKLE),
        Reason.OTHER_FORMAT,
    }
    assert {case.reason for case in MALFORMED} == set(Reason) - whole_files


@pytest.mark.parametrize(
    "case",
    [case for case in FIELDS if case.header.startswith(b'{"w":{')],
    ids=lambda case: case.name,
)
def test_a_malformed_entry_is_found_behind_metadata_and_other_tensors(case: Malformed) -> None:
    before = b'{"__metadata__":{"a":"b"},"a\\nb":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    error = rejection(with_length(before + case.header[1:], bytes(case.size)))
    assert error.reason is case.reason


def test_a_rejection_names_the_tensor() -> None:
    error = rejection(with_length(b'{"wte.weight":{"dtype":"U8","shape":[2]}}'))
    assert error.tensor == "wte.weight"
    assert "'wte.weight'" in str(error)


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        pytest.param(b"{}", 0, {}, id="no tensors"),
        pytest.param(b"{}      ", 0, {}, id="trailing spaces"),
        pytest.param(b"{" + W + b"}\n\t\r ", 1, {"w": (Dtype.U8, (1,), (0, 1))}, id="white space"),
        pytest.param(
            b'{ "w" : { "dtype" : "U8" , "shape" : [ ] , "data_offsets" : [ 0 , 1 ] } } ',
            1,
            {"w": (Dtype.U8, (), (0, 1))},
            id="a scalar, and spaces",
        ),
        pytest.param(
            b'{"w":{"dtype":"F64","shape":[3,0,2],"data_offsets":[0,0]}}',
            0,
            {"w": (Dtype.F64, (3, 0, 2), (0, 0))},
            id="an empty tensor",
        ),
        pytest.param(
            b'{"w":{"data_offsets":[0,3],"shape":[4],"dtype":"F6_E2M3"}}',
            3,
            {"w": (Dtype.F6_E2M3, (4,), (0, 3))},
            id="fields in another order",
        ),
        pytest.param(
            b'{"w":{"dtype":"F\\u0034","shape":[2],"data_offsets":[0,1]}}',
            1,
            {"w": (Dtype.F4, (2,), (0, 1))},
            id="an escape in a dtype",
        ),
    ],
)
def test_a_valid_header_is_read(
    header: bytes, size: int, expected: dict[str, tuple[Dtype, tuple[int, ...], tuple[int, int]]]
) -> None:
    found = tensors_of(header, size)
    assert {n: (i.dtype, i.shape, i.data_offsets) for n, i in found.items()} == expected


def test_entries_are_ordered_by_offset() -> None:
    text = (
        b'{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},'
        b'"z":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},'
        b'"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    assert list(tensors_of(text, 3)) == ["c", "z", "b"]


@pytest.mark.parametrize(
    "extra",
    ['"note":"x"', '"x":null', '"x":{"dtype":"F4"}', '"x":-1.5e3', '"":0', '"shape ":[]'],
)
def test_unknown_fields_are_ignored(extra: str) -> None:
    header = b'{"w":{"dtype":"U8",%s,"shape":[1],"data_offsets":[0,1]}}' % extra.encode()
    assert tensors_of(header, 1)["w"] == TensorInfo(Dtype.U8, (1,), (0, 1))


@pytest.mark.parametrize("brackets", ["[]", "{}"])
@pytest.mark.parametrize("inside", ["", "1"])
def test_unknown_fields_may_nest_125_levels(brackets: str, inside: str) -> None:
    if brackets == "[]":
        value = "[" * 125 + inside + "]" * 125
    else:
        value = '{"a":' * 124 + "{" + ('"a":1' if inside else "") + "}" * 125
    header = W[:-1] + b',"x":' + value.encode() + b"}"
    assert list(tensors_of(b"{" + header + b"}", 1)) == ["w"]


@pytest.mark.parametrize(
    "name",
    ["", ":", "a:b", "\\", "\\:", '"', "{", "}", "[,]", "é", "\U0001f600", "\u2028", "\x00", "-0"],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_text_is_a_name(name: str, ascii_only: bool) -> None:
    fields = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    text = json.dumps({name: fields, "__metadata__": {name: name}}, ensure_ascii=ascii_only)
    header = parse_header(with_length(text.encode(), b"\0"))
    assert list(header.tensors) == [name]
    assert header.metadata == {name: name}


METADATA = b'"__metadata__":{"config":"{\\"a\\":[1,2],\\"dtype\\":\\"F32\\"}","empty":""}'


@pytest.mark.parametrize(
    "members",
    [[METADATA, W], [W, METADATA], [W, METADATA, W.replace(b'"w"', b'"v"').replace(b"1", b"0")]],
    ids=["first", "last", "in the middle"],
)
def test_metadata_that_holds_json_is_read_wherever_it_stands(members: list[bytes]) -> None:
    header = parse_header(with_length(b"{" + b",".join(members) + b"}", b"\0"))
    assert header.metadata == {"config": '{"a":[1,2],"dtype":"F32"}', "empty": ""}
    assert len(header.tensors) == len(members) - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"{}", None), (b'{"__metadata__":null}', None), (b'{"__metadata__":{}}', {})],
)
def test_absent_null_and_empty_metadata(text: bytes, expected: dict[str, str] | None) -> None:
    assert parse_header(with_length(text)).metadata == expected


@pytest.mark.parametrize("value", ["x" * 70_000, "ä" * 70_000, 'ä{}:"' * 20_000, "-0"])
@pytest.mark.parametrize("name", ["w", "ä", "-0", "a:b"])
def test_metadata_of_any_length_and_text_stands_before_tensors(value: str, name: str) -> None:
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    members = {"__metadata__": {"note": value}, name: entry}
    for ascii_only in (True, False):
        text = json.dumps(members, ensure_ascii=ascii_only).encode()
        header = parse_header(with_length(text, bytes(1)))
        assert header.metadata == {"note": value}
        assert list(header.tensors) == [name]


@pytest.mark.parametrize("padding", [0, 70_000])
@pytest.mark.parametrize(
    "broken",
    [
        b'{"__metadata__":{"a":"PADDING\xff"},%s}' % W,
        b'{"__metadata__":{"a":"PADDING"},%s,"\xff":1}' % W,
        b'{"__metadata__":{"a":"PADDING"},%s,"y":"\xff"}}' % W[:-1],
    ],
)
def test_bytes_that_are_not_utf8_are_rejected_wherever_they_stand(
    broken: bytes, padding: int
) -> None:
    text = broken.replace(b"PADDING", b"x" * padding)
    with pytest.raises(HeaderError) as caught:
        parse_header(with_length(text, bytes(1)))
    assert caught.value.reason is Reason.NOT_UTF8


def test_a_repeated_metadata_key_keeps_its_last_value() -> None:
    text = b'{"__metadata__":{"a":"1","b":"2","a":"3"}}'
    assert parse_header(with_length(text)).metadata == {"a": "3", "b": "2"}


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer_is_parsed(wrap: Callable[[bytes], bytes]) -> None:
    data = file_bytes({"w": counting(Dtype.I16, 2, 3)}, {"a": "b"})
    header = parse_header(wrap(data))
    assert header == Header(
        {"w": TensorInfo(Dtype.I16, (2, 3), (0, 12))}, {"a": "b"}, len(data) - 12 - 8
    )
    assert header.file_nbytes == len(data)


def test_the_beginning_of_a_file_suffices_with_its_size() -> None:
    data = file_bytes({"w": counting(Dtype.U8, 1000)})
    assert parse_header(data[:-1000], size=len(data)) == parse_header(data)
    with pytest.raises(InvalidInputError, match="only 20 were given"):
        parse_header(data[:20], size=len(data))


@pytest.mark.parametrize("name", [name for name in READERS if name not in IN_MEMORY])
def test_an_error_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_length(b"{" + W + b"," + W + b"}", b"\0"))
    with pytest.raises(HeaderError) as caught:
        READERS[name](path)
    assert str(caught.value) == f"{path}: tensor 'w' occurs more than once"
    assert caught.value.location == str(path)


def test_every_beginning_of_a_file_is_rejected(reader: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = with_length(b"{" + W + b"}  ", b"ab")
    reasons = [Reason.EMPTY, *[Reason.TOO_SHORT] * 7]
    reasons += [Reason.HEADER_TRUNCATED] * (len(whole) - 10) + [Reason.TRUNCATED]
    for size, reason in enumerate(reasons):
        path.write_bytes(whole[:size])
        with pytest.raises(HeaderError) as caught:
            reader(path)
        assert (size, caught.value.reason) == (size, reason)
    path.write_bytes(whole[:-1])
    reader(path)


def test_the_limit_of_the_header_is_a_parameter(reader: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_length(b"{" + W + b"}" + b" " * 100, b"\0"))
    length = len(W) + 102
    reader(path, max_header=length)
    with pytest.raises(HeaderError, match=rf"pass max_header={length} if") as caught:
        reader(path, max_header=length - 1)
    assert caught.value.reason is Reason.HEADER_TOO_LARGE
