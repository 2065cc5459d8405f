"""Headers made to cost much: time stays linear and memory proportional to their length."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from core.tests.raw import with_length
from safetensors_core import HeaderError, parse_header

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# The dearest text is `{},`: three bytes that become a list object in a list, about 100 bytes.
MEMORY_PER_BYTE = 64

W = b'"dtype":"U8","shape":[1],"data_offsets":[0,1]'
SHAPE = b'{"w":{"dtype":"U8","data_offsets":[0,1],"shape":['
EXTRA = b'{"w":{' + W + b',"x":'


def repeated(text: bytes, size: int) -> bytes:
    return text * (size // len(text))


def tensors(size: int, name: Callable[[int], str]) -> bytes:
    """A valid header of many empty tensors."""
    fields = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    count = size // (len(fields) + len(name(10**5)) + 4)
    return ("{" + ",".join(f'"{name(i)}":{fields}' for i in range(count)) + "}").encode()


# What makes a header of about a given size, by what is hostile in it.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "open lists": lambda size: b'{"w":' + b"[" * size,
    "open objects": lambda size: repeated(b'{"w":', size),
    "closed lists": lambda size: EXTRA + b"[" * (size // 2) + b"]" * (size // 2) + b"}}",
    "open lists in metadata": lambda size: b'{"__metadata__":' + b"[" * size,
    "open lists in a shape": lambda size: SHAPE + b"[" * size,
    "a million names": lambda size: tensors(size, str),
    "names that look like fields": lambda size: tensors(size, lambda i: f"a:{i}"),
    "names with escapes": lambda size: tensors(size, lambda i: f"\\u003a{i}"),
    "one long name": lambda size: b'{"' + b"a" * size + b'":{' + W + b"}}",
    "one long escaped name": lambda size: b'{"' + repeated(b"\\n", size) + b'":{' + W + b"}}",
    "one tensor many times": lambda size: b"{" + repeated(b'"w":{' + W + b"},", size)[:-1] + b"}",
    "one field many times": lambda size: b'{"w":{' + repeated(b'"dtype":"U8",', size) + W + b"}}",
    "unknown fields": lambda size: b'{"w":{' + repeated(b'"":0,', size) + W + b"}}",
    "empty entries": lambda size: b"{" + repeated(b'"":{},', size)[:-1] + b"}",
    "a huge integer as shape": lambda size: SHAPE + b"9" * size + b"]}}",
    "a huge negative integer": lambda size: SHAPE + b"-" + b"9" * size + b"]}}",
    "a huge integer nobody reads": lambda size: EXTRA + b"9" * size + b"}}",
    "a huge float nobody reads": lambda size: EXTRA + b"0." + b"9" * size + b"}}",
    "a huge exponent": lambda size: EXTRA + b"1e-" + b"9" * size + b"}}",
    "many integers of 4000 digits": lambda size: (
        SHAPE + repeated(b"9" * 4000 + b",", size)[:-1] + b"]}}"
    ),
    "a long shape of ones": lambda size: SHAPE + repeated(b"1,", size) + b"2]}}",
    "a long shape of twos": lambda size: SHAPE + repeated(b"2,", size) + b"0]}}",
    "a long list of offsets": lambda size: (
        b'{"w":{"dtype":"U8","shape":[],"data_offsets":[' + repeated(b"0,", size) + b"1]}}"
    ),
    "a long list of objects": lambda size: EXTRA + b"[" + repeated(b"{},", size) + b"0]}}",
    "a long list of lists": lambda size: EXTRA + b"[" + repeated(b"[],", size) + b"0]}}",
    "a long list of numbers": lambda size: EXTRA + b"[" + repeated(b"-1,", size) + b"0]}}",
    "a long list of strings": lambda size: EXTRA + b"[" + repeated(b'"\xc3\xa9",', size) + b"0]}}",
    "much metadata": lambda size: b'{"__metadata__":{' + repeated(b'"a":"",', size) + b'"b":""}}',
    "spaces": lambda size: b"{" + b" " * size,
    "colons": lambda size: b'{"w":{' + W + b"}" + b":" * size,
    "minus zeros": lambda size: SHAPE + repeated(b"-0,", size) + b"1]}}",
    "not UTF-8": lambda size: b'{"' + repeated(b"\xc3", size),
}
# Parsed in a process of its own, which has a limit on memory, and one on processor time that
# only an algorithm that is not linear can reach.
PROGRAM = """
import resource, sys
from core.tests.raw import with_length
from core.tests.test_header_hostile import HOSTILE, MEMORY_PER_BYTE
from safetensors_core import HeaderError, parse_header
size = int(sys.argv[2])
data = with_length(HOSTILE[sys.argv[1]](size))
with open("/proc/self/statm") as status:
    used = int(status.read().split()[0]) * resource.getpagesize()
limit = used + MEMORY_PER_BYTE * size
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
try:
    parse_header(data, max_header=len(data))
    print("accepted")
except HeaderError as error:
    print(error.reason)
"""


def outcome(data: bytes) -> str:
    try:
        parse_header(data)
    except HeaderError as error:
        return error.reason
    return "accepted"


def peak(data: bytes) -> int:
    """Memory that parsing needs at most, in bytes."""
    tracemalloc.start()
    try:
        outcome(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_is_proportional_to_the_header(name: str) -> None:
    small, large = (with_length(HOSTILE[name](size)) for size in (MIB // 8, MIB // 4))
    outcome(small)  # what is imported or cached once is not the header's
    peak_small, peak_large = peak(small), peak(large)
    assert peak_large < MEMORY_PER_BYTE * len(large)
    assert peak_large < 2.5 * peak_small + MIB // 8


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_long_hostile_header_ends_like_a_short_one(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, str(4 * MIB)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == outcome(with_length(HOSTILE[name](MIB // 16)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize("name", ["open lists", "open objects", "a huge integer as shape"])
def test_the_longest_header_is_survived(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, "100000000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == outcome(with_length(HOSTILE[name](MIB // 16)))


def test_a_header_is_rejected_before_anything_is_allocated_from_what_it_claims() -> None:
    text = b'{"w":{"dtype":"U64","shape":[%d],"data_offsets":[0,%d]}}' % (2**57, 2**60)
    assert peak(with_length(text)) < MIB
    assert peak((10**8).to_bytes(8, "little") + b"{}") < MIB
