"""Which ranges of a remote file are fetched together, and what is said of failures and URLs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import InvalidInputError
from safetensors_core.errors import RemoteError
from safetensors_core.sources.attempts import (
    Attempts,
    Interrupted,
    connections,
    retry_after,
    stall_timeout,
)
from safetensors_core.sources.parts import Part, plan_parts
from safetensors_core.sources.urls import shown

KIB = 1024
MIB = 1024 * KIB


def buffer_of(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))


def requests(*ranges: tuple[int, int]) -> list[tuple[int, int]]:
    """First byte and byte after the last one of each request for ranges of an offset and a size."""
    parts = plan_parts([(offset, buffer_of(nbytes)) for offset, nbytes in ranges])
    return [(part.position, part.end) for part in parts]


@pytest.mark.parametrize(("gap", "count"), [(0, 1), (1, 1), (64 * KIB, 1), (64 * KIB + 1, 2)])
def test_ranges_are_fetched_together_over_gaps_of_up_to_64_kib(gap: int, count: int) -> None:
    assert len(requests((0, 10), (10 + gap, 10))) == count


def test_a_long_range_is_fetched_in_parts_of_8_mib() -> None:
    assert requests((5, 20 * MIB)) == [
        (5, 5 + 8 * MIB),
        (5 + 8 * MIB, 5 + 16 * MIB),
        (5 + 16 * MIB, 5 + 20 * MIB),
    ]


def test_ranges_that_go_back_are_fetched_by_themselves() -> None:
    assert requests((100, 10), (0, 10)) == [(100, 110), (0, 10)]


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 50_000)), min_size=1, max_size=6),
    st.integers(1, 70_000),
)
def test_each_byte_arrives_where_it_belongs(lengths: list[tuple[int, int]], chunk: int) -> None:
    ranges, offset = [], 0
    for gap, length in lengths:
        ranges.append((offset + gap, buffer_of(length)))
        offset += gap + length
    file = bytes(i * 31 % 251 for i in range(1000)) * (offset // 1000 + 1)
    for part in plan_parts(ranges):
        while part.missing:
            part.put(file[part.position : min(part.end, part.position + chunk)])
    for offset, view in ranges:
        assert view == file[offset : offset + len(view)]


def test_bytes_after_the_end_of_a_part_are_dropped() -> None:
    buffer = bytearray(4)
    part = Part(0, [memoryview(buffer)[:2]])
    part.put(b"abcd")
    assert (bytes(buffer), part.missing) == (b"ab\0\0", 0)


def test_a_part_wants_nothing_after_the_end_of_the_file() -> None:
    part = Part(10, [memoryview(bytearray(100))])
    part.cut(30)
    assert part.missing == 20
    part.cut(5)
    assert part.missing == 0


def test_waits_grow_and_end_with_an_error_that_says_how_often_it_was_tried() -> None:
    attempts = Attempts("https://example.org/a")
    error = Interrupted("the server failed", status=503)
    waits = [attempts.wait_after(error, 0) for _ in range(4)]
    for wait, longest in zip(waits, [0.5, 1, 2, 4], strict=True):
        assert longest / 2 <= wait <= longest
    with pytest.raises(RemoteError) as caught:
        attempts.wait_after(error, 0)
    assert str(caught.value) == (
        "https://example.org/a: the server failed; tried 5 times (HTTP status 503)"
    )
    assert caught.value.status == 503


def test_a_range_that_makes_progress_is_tried_as_often_as_it_takes() -> None:
    attempts = Attempts("https://example.org/a")
    broken = Interrupted("the connection broke")
    assert all(attempts.wait_after(broken, MIB) <= 0.5 for _ in range(100))


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (3600.0, 30.0)])
def test_a_server_may_ask_to_wait_up_to_half_a_minute(asked: float, waited: float) -> None:
    assert Attempts("a").wait_after(Interrupted("busy", wait=asked), 0) == waited


@pytest.mark.parametrize("text", [None, "", "soon", "-3", "Thu, 99 Jan 1970 00:00:00 GMT"])
def test_a_wait_that_cannot_be_read_is_none(text: str | None) -> None:
    assert retry_after(text) == 0


def test_a_wait_may_be_a_date() -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    assert 3500 < retry_after(format_datetime(later, usegmt=True)) <= 3600


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_setting_that_is_no_positive_number_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFETENSORS_REMOTE_TIMEOUT", text)
    with pytest.raises(InvalidInputError, match="SAFETENSORS_REMOTE_TIMEOUT"):
        stall_timeout()
    monkeypatch.setenv("SAFETENSORS_REMOTE_CONNECTIONS", text)
    with pytest.raises(InvalidInputError, match="SAFETENSORS_REMOTE_CONNECTIONS"):
        connections()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://me:secret@host:81/a.st?sig=secret#secret", "https://host:81/a.st"),
        ("HTTP://secret@host/a@b", "HTTP://host/a@b"),
        ("http://me:secret@[::1]:80/a?sig=secret", "http://[::1]:80/a"),
        ("http://[::1", "http://..."),
        ("s3://bucket/a?versionId=secret", "s3://bucket/a"),
        ("s3://bucket/what?.safetensors", "s3://bucket/what?.safetensors"),
        ("sftp://me:secret@host/a", "sftp://host/a"),
        ("hf://org/name@v1/a", "hf://org/name@v1/a"),
        ("zip://a.st::https://me:secret@host/a.zip?sig=secret", "zip://a.st::https://host/a.zip"),
        ("memory://a/b@c", "memory://a/b@c"),
        ("/home/me@work/a?b=c", "/home/me@work/a?b=c"),
    ],
)
def test_a_url_is_shown_without_what_gives_access(url: str, text: str) -> None:
    assert shown(url) == text
