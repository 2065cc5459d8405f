"""HTTP servers that fail: what is tried again, what is said in the end, and that nothing hangs."""

from __future__ import annotations

import os
import random
import socket
import traceback
from pathlib import Path

import pytest

from safetensors_core import ByteSource
from safetensors_core.errors import RemoteError
from safetensors_core.plugins import open_source
from safetensors_core.sources import attempts
from tests.remote.servers import Fault, RangeServer, Request

MIB = 1024 * 1024

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def data(files: Path) -> bytes:
    content = os.urandom(2 * MIB)
    (files / "a").write_bytes(content)
    return content


@pytest.fixture
def source(server: RangeServer, data: bytes) -> ByteSource:
    """An open file of which only the beginning has been read."""
    found = open_source(server.url("a"))
    assert found.size == len(data)
    server.reset()
    return found


def read(source: ByteSource, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


FAULTS = {
    "drop": Fault("drop"),
    "silence": Fault("silence"),
    "cut": Fault("cut"),
    "stall": Fault("stall"),
    **{f"{status}": Fault("status", status) for status in (408, 425, 429, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_fails_four_times_succeeds_the_fifth_time(
    server: RangeServer, source: ByteSource, data: bytes, fault: Fault
) -> None:
    server.fail_first(*[fault] * 4)
    assert read(source, MIB, 1000) == data[MIB : MIB + 1000]
    assert len(server.requests) == 5


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_fails_each_time_is_an_error_after_five_tries(
    server: RangeServer, source: ByteSource, fault: Fault
) -> None:
    server.fault = lambda _: fault
    with pytest.raises(RemoteError, match="tried 5 times") as caught:
        read(source, MIB, 1000)
    assert caught.value.status == (fault.status if fault.kind == "status" else None)
    assert str(caught.value).startswith(server.url("a"))
    # aiohttp itself repeats what was dropped, once each time.
    assert len(server.requests) == 5 or fault.kind == "drop"
    assert len(server.requests) <= 10


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_first_read_is_tried_again_too(server: RangeServer, data: bytes, fault: Fault) -> None:
    server.fail_first(fault)
    assert open_source(server.url("a")).size == len(data)


def test_a_server_that_refuses_connections_is_an_error_after_five_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(RemoteError, match=rf"127\.0\.0\.1:{port}/a: .*tried 5 times"):
        open_source(f"http://127.0.0.1:{port}/a").read_header()


def test_a_server_that_never_answers_is_an_error_after_five_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]  # it takes connections, and answers none
        with pytest.raises(RemoteError, match="sent nothing for too long; tried 5 times"):
            open_source(f"http://127.0.0.1:{port}/a").read_header()


def test_an_answer_that_is_no_http_is_an_error_that_shows_nothing_secret(
    server: RangeServer, files: Path
) -> None:
    (files / "a").write_bytes(b"")
    server.fault = lambda _: Fault("headers", headers={"Content-Length": "odd"})
    url = server.url("a", user="me:s3cr3t") + "?X-Amz-Signature=s3cr3t"
    with pytest.raises(RemoteError, match=r"(?s)Content-Length.*tried 5 times") as caught:
        open_source(url).read_header()
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_a_body_cut_short_goes_on_from_where_it_broke(
    server: RangeServer, source: ByteSource, data: bytes
) -> None:
    server.fail_first(Fault("cut"), Fault("cut"))
    assert read(source, MIB, 4096) == data[MIB : MIB + 4096]
    ranges = [request.headers["range"] for request in server.requests]
    assert ranges == [
        f"bytes={MIB}-{MIB + 4095}",
        f"bytes={MIB + 2048}-{MIB + 4095}",
        f"bytes={MIB + 3072}-{MIB + 4095}",
    ]


def test_connections_that_break_often_do_no_harm_while_bytes_arrive(
    server: RangeServer, files: Path
) -> None:
    content = os.urandom(8 * MIB)
    (files / "large").write_bytes(content)
    source = open_source(server.url("large"))
    assert source.size == len(content)
    server.reset()
    server.fail_first(*[Fault("cut")] * 7)
    # In one part, of which each answer brings half of what is left.
    assert read(source, 70_000, 8 * MIB - 70_000) == content[70_000:]
    assert len(server.requests) == 8


def test_a_server_is_given_the_time_it_asks_for(
    server: RangeServer, source: ByteSource, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    wait_after = attempts.Attempts.wait_after

    def noted(self: attempts.Attempts, error: attempts.Interrupted, progress: int) -> float:
        waits.append(wait_after(self, error, progress))
        return 0.0

    monkeypatch.setattr(attempts.Attempts, "wait_after", noted)
    server.fail_first(Fault("status", 503, {"Retry-After": "7"}), Fault("status", 429))
    assert read(source, MIB, 10) == data[MIB : MIB + 10]
    assert waits[0] == 7
    assert waits[1] < 1


def test_an_answer_that_ends_early_but_says_so_is_completed(
    server: RangeServer, source: ByteSource, data: bytes
) -> None:
    # Some servers answer with fewer bytes than asked for, and with their true number.
    short = {"Content-Range": f"bytes {MIB}-{MIB + 99}/{len(data)}", "Content-Length": "100"}
    server.fail_first(Fault("cut", headers=short))
    assert read(source, MIB, 200) == data[MIB : MIB + 200]


def test_a_file_that_is_replaced_between_two_tries_is_an_error(
    server: RangeServer, source: ByteSource, files: Path
) -> None:
    def fault(_: Request) -> Fault | None:
        if len(server.requests) == 1:
            return Fault("cut")
        (files / "a").write_bytes(os.urandom(2 * MIB))
        return None

    server.fault = fault
    with pytest.raises(RemoteError, match="changed while it was read"):
        read(source, MIB, 4096)


@pytest.mark.parametrize("seed", range(4))
def test_reads_from_a_failing_server_are_right_or_an_error(
    server: RangeServer, source: ByteSource, data: bytes, seed: int
) -> None:
    """1,000 reads in all; none hangs, or the run would be ended by the timeout of the suite."""
    chance = random.Random(seed)
    kinds = [*FAULTS.values(), Fault("whole"), Fault("other range"), Fault("status", 403)]
    # What takes a timeout to notice stays rare.
    weights = [1 if fault.kind in {"silence", "stall"} else 10 for fault in kinds]

    def fault(_: Request) -> Fault | None:
        return chance.choices(kinds, weights)[0] if chance.random() < 0.25 else None

    server.fault = fault
    right = 0
    refused = []
    for _ in range(250):
        length = chance.randrange(1, 200_000)
        offset = chance.randrange(len(data) - length)
        try:
            found = read(source, offset, length)
        except (RemoteError, PermissionError) as error:
            refused.append(str(error))
        else:
            assert found == data[offset : offset + length]
            right += 1
    assert right > 200
    assert [text for text in refused if server.url("a") not in text] == []
