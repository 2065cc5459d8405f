"""Malformed headers are refused with the reference's own words, as far as they are its own.

What its JSON parser says is not: of such a header only the beginning of the message is the same.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors
import safetensors.numpy

from core.tests.raw import with_length
from safetensors_core import Reason, SafetensorError
from safetensors_core.compat import functions
from safetensors_core.compat.handle import safe_open
from safetensors_core.compat.serialization import deserialize
from safetensors_core.testing.malformed import MALFORMED, Malformed

PARSER = re.compile(r"(invalid (?:JSON|UTF-8) in header: ).*", re.DOTALL)
# What breaks the written format and the reference reads all the same, by the reason we give.
ACCEPTED = {
    "a space in front": Reason.NOT_AN_OBJECT,
    "a line feed in front": Reason.NOT_AN_OBJECT,
    "a repeated tensor": Reason.DUPLICATE_NAME,
    "a tensor repeated by an escape": Reason.DUPLICATE_NAME,
    "a list as entry": Reason.INVALID_ENTRY,
}
PARTIAL_BYTE = (
    "The slice is slicing for subbytes dtypes, and the slice does not end up at a byte boundary, "
    "this is invalid."
)
TWICE = "the same bytes twice"  # the reference names the tensor that a hash puts last
REFUSED = [case for case in MALFORMED if case.name not in ACCEPTED and case.name != TWICE]
LENGTHS = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "no header": bytes(8),
    "a length of 64 bits": b"\xff" * 8,
    "a length over the limit": (100_000_001).to_bytes(8, "little") + b"{}",
    "the largest length": (100_000_000).to_bytes(8, "little") + b"{}",
    "a length over the size": (9).to_bytes(8, "little") + b"{}      ",
    "a page": b"<!DOCTYPE html>\n<html></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a pickle": b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01",
    "an archive": b"PK\x03\x04\x00\x00\x08\x08\x00\x00",
    "an array": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'",
    "a GGUF file": b"GGUF\x03\x00\x00\x00\x01\x00\x00\x00",
}


def file_of(case: Malformed) -> bytes:
    return with_length(case.header, bytes(case.size))


def comparable(message: str) -> str:
    return PARSER.sub(r"\1", message)


def refusal_of_the_reference(data: bytes) -> str:
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(data)
    return str(caught.value)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_bytes_are_refused_in_the_same_words(case: Malformed) -> None:
    expected = refusal_of_the_reference(file_of(case))
    for read in (deserialize, lambda data: functions.load(data, "numpy")):
        with pytest.raises(SafetensorError) as caught:
            read(file_of(case))
        assert type(caught.value) is SafetensorError
        assert comparable(str(caught.value)) == comparable(expected)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_files_are_refused_in_the_same_words(case: Malformed, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(case))
    with pytest.raises(safetensors.SafetensorError) as theirs:
        safetensors.safe_open(path, "np")
    for backend in ("mmap", "pread"):
        for framework in ("np", "pt"):
            with pytest.raises(SafetensorError) as ours:
                safe_open(path, framework, backend=backend)
            assert comparable(str(ours.value)) == comparable(str(theirs.value))


@pytest.mark.parametrize("name", LENGTHS)
def test_what_has_no_header_is_refused_in_the_same_words(name: str, tmp_path: Path) -> None:
    data, path = LENGTHS[name], tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(SafetensorError) as ours:
        deserialize(data)
    assert comparable(str(ours.value)) == comparable(refusal_of_the_reference(data))
    with pytest.raises(SafetensorError) as ours:
        safe_open(path, "np")
    with pytest.raises(safetensors.SafetensorError) as theirs:
        safetensors.safe_open(path, "np")
    assert comparable(str(ours.value)) == comparable(str(theirs.value))


def test_the_words_of_every_kind_of_header_are_compared() -> None:
    messages = {comparable(refusal_of_the_reference(file_of(case))) for case in REFUSED}
    reasons = {message.removeprefix("Error while deserializing: ") for message in messages}
    assert {reason.split(" `")[0] for reason in reasons} == {
        "incomplete metadata, file not fully covered",
        "invalid JSON in header: ",
        "invalid UTF-8 in header: ",
        "invalid offset for tensor",
        "invalid shape, data type, or offset for tensor",
        "overflow computing buffer size from shape and/or element type",
        PARTIAL_BYTE,
    }


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_only_the_reference_reads_is_refused_as_wrong_json(name: str) -> None:
    case = next(case for case in MALFORMED if case.name == name)
    assert case.reason is ACCEPTED[name]
    assert safetensors.deserialize(file_of(case)) == [] or safetensors.numpy.load(file_of(case))
    with pytest.raises(SafetensorError, match=r"deserializing: invalid JSON in header: "):
        deserialize(file_of(case))


def test_two_tensors_with_the_same_bytes_are_refused_by_the_name_of_one() -> None:
    data = file_of(next(case for case in MALFORMED if case.name == TWICE))
    with pytest.raises(SafetensorError) as caught:
        deserialize(data)
    for message in (str(caught.value), refusal_of_the_reference(data)):
        assert re.fullmatch("Error while deserializing: invalid offset for tensor `[ab]`", message)


def test_our_own_error_stays_behind_the_reference_s_words() -> None:
    case = next(case for case in REFUSED if case.reason is Reason.GAP)
    with pytest.raises(SafetensorError) as caught:
        deserialize(file_of(case))
    assert getattr(caught.value.__cause__, "reason", None) is Reason.GAP
