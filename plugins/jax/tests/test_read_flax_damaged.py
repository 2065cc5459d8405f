"""Files of Flax that are damaged or hostile: refused in a line, and with hardly any memory."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from pathlib import Path

import flax.serialization
import numpy as np
import pytest

from plugins.jax.tests.foreign import ask, assert_holds, read, stored
from safetensors_core import ConversionError, UnsupportedDtypeError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.msgpack"


def text(value: str) -> bytes:
    return b"\xd9" + bytes([len(value)]) + value.encode()


def ndarray(shape: bytes, dtype: str, data: bytes, code: int = 1) -> bytes:
    """An array as Flax packs it, from parts that need not fit together."""
    body = b"\x93" + shape + text(dtype) + b"\xc6" + struct.pack(">I", len(data)) + data
    return b"\xc9" + struct.pack(">IB", len(body), code) + body


def tree_of(value: bytes) -> bytes:
    return b"\x81" + text("w") + value


GOOD = ndarray(b"\x91\x02", "uint8", b"ab")

DAMAGED = {
    "more bytes than the shape": ndarray(b"\x91\x01", "uint8", b"ab"),
    "fewer bytes than the shape": ndarray(b"\x91\x03", "uint8", b"ab"),
    "a dtype of two lines": ndarray(b"\x91\x02", "uint8\n", b"ab"),
    "a shape of exabytes": ndarray(b"\x92" + b"\xcf" + b"\xff" * 8 + b"\x02", "uint8", b"ab"),
    "a negative dimension": ndarray(b"\x92\xff\xfe", "uint8", b"ab"),
    "a dimension that is a text": ndarray(b"\x91\xa12", "uint8", b"ab"),
    "a dimension that is true": ndarray(b"\x91\xc3", "uint8", b"a"),
    "a shape of a million dimensions": ndarray(b"\xdd\x00\x0f\x42\x40", "uint8", b"ab"),
    "a shape that is no list": ndarray(b"\x02", "uint8", b"ab"),
    "an array of two parts": b"\xc7\x03\x01\x92\x90\xa0",
    "an array of a number": b"\xd4\x01\x05",
    "bytes after the array": b"\xc7\x0e\x01" + GOOD[6:7] + b"\x91\x02\xa5uint8\xc4\x02ab\x00"[:13],
    "an array longer than its extension": b"\xc7\x0c\x01\x93\x91\x02\xa5uint8\xc4\x02ab",
    "an extension longer than the file": b"\xc9\xff\xff\xff\xff\x01\x93",
    "a list of four billion": b"\xdd\xff\xff\xff\xff\xc0",
    "a map of four billion": b"\xdf\xff\xff\xff\xff\xc0\xc0",
    "a text of four billion": b"\xdb\xff\xff\xff\xff",
    "bytes of four billion": b"\xc6\xff\xff\xff\xff",
    "a deep nest of lists": b"\x91" * 5000 + b"\xc0",
    "a deep nest of maps": b"\x81\xa0" * 5000 + b"\xc0",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "a number and a text as one key": b"\x82\x01\x01\xa11\x02",
    "a key that is a list": b"\x81\x90\x01",
    "a key that is bytes": b"\x81\xc4\x01a\x01",
    "a key that is true": b"\x81\xc3\x01",
    "a key of 70,000 bytes": b"\x81\xdb\x00\x01\x11\x70" + b"k" * 70_000 + b"\x01",
    "a text that is not UTF-8": b"\xa2\xff\xfe",
    "a tag that msgpack does not have": b"\xc1",
    "chunks without a shape": b"\x82\xb9__msgpack_chunked_array__\xc3\xa6chunks\x81\xa10" + GOOD,
    "chunks of nothing": b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x80\xa6chunks\x80",
    "chunks that are numbers": (
        b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x02\xa6chunks\x81\xa10\x02"
    ),
    "chunks of two dtypes": (
        b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x04\xa6chunks\x82\xa10"
        + GOOD
        + b"\xa11"
        + ndarray(b"\x91\x02", "int8", b"ab")
    ),
    "chunks of a negative shape": (
        b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\xfe\xa6chunks\x81\xa10" + GOOD
    ),
}


def assert_damaged(path: Path) -> None:
    """Refused in one line, with hardly any memory."""
    tracemalloc.start()
    with pytest.raises(ConversionError, match=re.escape(str(path))) as caught:
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 4 * 2**20


def test_the_parts_of_these_tests_make_a_good_file(path: Path) -> None:
    path.write_bytes(tree_of(GOOD))
    found = read(path)
    assert_holds(found, {"w": np.frombuffer(b"ab", np.uint8)})
    assert flax.serialization.msgpack_restore(path.read_bytes())["w"].tobytes() == b"ab"


@pytest.mark.parametrize("value", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_hostile_file_is_refused(value: bytes, path: Path) -> None:
    path.write_bytes(tree_of(value))
    assert_damaged(path)


@pytest.mark.parametrize("dtype", ["object", "O", ">f4", "<f4", "f4,f4", "void64"])
def test_a_dtype_is_known_by_its_own_name_only(dtype: str, path: Path) -> None:
    path.write_bytes(tree_of(ndarray(b"\x91\x01", dtype, b"abcdefgh")))
    found = read(path)
    assert isinstance(found.refused["w"], UnsupportedDtypeError)
    assert not found.tensors
    found.close()


def test_a_file_that_ends_early_is_refused_wherever_it_ends(path: Path) -> None:
    layer = {"kernel": np.ones((3, 40), np.float32), "bias": np.ones(4)}
    tree = {"params": {"Dense_0": layer, "Dense_1": layer}, "step": np.int64(3), "epoch": 2}
    whole = flax.serialization.msgpack_serialize(tree)
    for end in range(2, len(whole)):
        path.write_bytes(whole[:end])
        assert_damaged(path)


def test_bytes_after_the_tree_are_refused(path: Path) -> None:
    path.write_bytes(tree_of(GOOD) + b"\xc0")
    assert_damaged(path)


def test_a_changed_byte_never_raises_an_error_of_python(path: Path) -> None:
    tree = {"params": {"w": np.ones((2, 2), np.float32), "n": 3}, "step": 5, "list": [1, "a"]}
    whole = flax.serialization.msgpack_serialize(tree)
    rng = np.random.default_rng(0)
    for at in range(len(whole)):
        for value in (0xFF, 0xDF, 0xDD, 0xC1, int(rng.integers(256))):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                found = ask(path)
            except (ConversionError, UnsupportedDtypeError):
                continue
            for tensor in () if found is None else stored(found).values():
                assert len(tensor.read().tobytes()) == tensor.spec.nbytes


def test_more_values_than_a_file_could_name_are_refused(path: Path) -> None:
    path.write_bytes(tree_of(b"\xdd" + struct.pack(">I", 1_100_000) + b"\xc0" * 1_100_000))
    with pytest.raises(ConversionError, match="more than 1,000,000 values"):
        read(path)


def test_two_values_of_one_name_are_refused(path: Path) -> None:
    tree = {"a": {"b.c": np.ones(1)}, "a.b": {"c": np.ones(1)}}
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    with pytest.raises(ConversionError, match=r"two values would both be named 'a\.b\.c'"):
        read(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(path: Path) -> None:
    path.write_bytes(flax.serialization.msgpack_serialize({"w": np.ones(10**6)}))
    found = read(path)
    os.truncate(path, 1000)
    with pytest.raises(ConversionError, match="became shorter"):
        found.tensors["w"].read()
