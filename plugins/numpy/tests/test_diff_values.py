"""By how much values differ: every dtype with every other, against numbers read bit by bit."""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path

import pytest

from safetensors_core import Dtype, TensorInfo
from safetensors_core.checkpoint import comparison
from safetensors_core.checkpoint.comparison import TensorDifference, compare_checkpoints
from safetensors_core.checkpoint.numbers import ValueDifference
from safetensors_core.cli import main
from safetensors_core.header import encode_header
from safetensors_core.testing.values import bit_patterns, elements, numbers

COUNT = 64


def write(path: Path, dtype: Dtype, data: bytes) -> Path:
    """A file of one tensor."""
    count = len(data) * 8 // dtype.bits
    header = encode_header({"w": TensorInfo(dtype, (count,), (0, len(data)))}, None)
    path.write_bytes(header + data)
    return path


def difference(
    tmp_path: Path, a: tuple[Dtype, bytes], b: tuple[Dtype, bytes]
) -> TensorDifference | None:
    found = compare_checkpoints(write(tmp_path / "a", *a), write(tmp_path / "b", *b))
    assert found.complete
    assert found.equal == (found.tensors == [])
    return found.tensors[0] if found.tensors else None


def values(tmp_path: Path, a: tuple[Dtype, bytes], b: tuple[Dtype, bytes]) -> ValueDifference:
    found = difference(tmp_path, a, b)
    assert found is not None
    assert found.values is not None
    return found.values


def plain(dtype: Dtype, data: bytes) -> list[complex]:
    """The numbers, with those of a BOOL as they are in its bytes."""
    return elements(dtype, data) if dtype is Dtype.BOOL else numbers(dtype, data)  # type: ignore[return-value]


def expected(a: tuple[Dtype, bytes], b: tuple[Dtype, bytes]) -> ValueDifference:
    """What is to be found, element by element and with numbers of Python."""
    differing = not_finite = 0
    absolute = relative = 0.0
    bits = zip(elements(*a), elements(*b), strict=True)
    for x, y, (p, q) in zip(plain(*a), plain(*b), bits, strict=True):
        if p == q if a[0] is b[0] else x == y or (x != x and y != y):  # noqa: PLR0124
            continue
        differing += 1
        if not all(map(math.isfinite, (x.real, x.imag, y.real, y.imag))):
            not_finite += 1
            continue
        distance = min(abs(x - y), sys.float_info.max)
        absolute = max(absolute, float(distance))
        if distance:
            relative = max(relative, distance / float(max(abs(x), abs(y))))
    return ValueDifference(COUNT, differing, not_finite, absolute, relative)


class About:
    """Equal counts, and maxima that are equal but for the last bits."""

    def __init__(self, wanted: ValueDifference) -> None:
        self.wanted = wanted

    def __eq__(self, other: object) -> bool:
        wanted = self.wanted
        return (
            isinstance(other, ValueDifference)
            and (other.elements, other.differing, other.not_finite)
            == (wanted.elements, wanted.differing, wanted.not_finite)
            and other.max_absolute == pytest.approx(wanted.max_absolute, rel=1e-12, abs=0)
            and other.max_relative == pytest.approx(wanted.max_relative, rel=1e-12, abs=0)
        )

    def __hash__(self) -> int:
        return hash(self.wanted)

    def __repr__(self) -> str:
        return f"about {self.wanted!r}"


@pytest.mark.parametrize("dtype", Dtype)
def test_values_of_one_dtype(dtype: Dtype, tmp_path: Path) -> None:
    a = dtype, bit_patterns(dtype, COUNT)
    # Every element has another bit, and for one the bits are the same.
    size = max(dtype.bits // 8, 1)
    b = dtype, bytes(byte ^ 1 for byte in a[1][:-size]) + a[1][-size:]
    assert difference(tmp_path, a, a) is None
    assert values(tmp_path, a, b) == About(expected(a, b))


@pytest.mark.parametrize("first", Dtype)
def test_values_of_two_dtypes(first: Dtype, tmp_path: Path) -> None:
    a = first, bit_patterns(first, COUNT)
    for second in Dtype:
        if second is first:
            continue
        b = second, bit_patterns(second, COUNT)
        assert values(tmp_path, a, b) == About(expected(a, b)), second


def doubles(*numbers: float) -> tuple[Dtype, bytes]:
    return Dtype.F64, struct.pack(f"<{len(numbers)}d", *numbers)


def test_a_nan_of_the_same_bits_is_the_same(tmp_path: Path) -> None:
    assert difference(tmp_path, doubles(math.nan, 1), doubles(math.nan, 1)) is None


def test_a_nan_of_other_bits_differs_and_has_no_part_in_the_maxima(tmp_path: Path) -> None:
    a = Dtype.F64, struct.pack("<2Q", 0x7FF8000000000000, 0x3FF0000000000000)
    b = Dtype.F64, struct.pack("<2Q", 0x7FF8000000000001, 0x3FF0000000000000)
    assert values(tmp_path, a, b) == ValueDifference(2, 1, 1, 0.0, 0.0)


def test_a_nan_and_a_number_differ(tmp_path: Path) -> None:
    found = values(tmp_path, doubles(math.nan, 1, 2), doubles(1, math.nan, 4))
    assert found == ValueDifference(3, 3, 2, 2.0, 0.5)


def test_infinities_differ_from_numbers_and_from_each_other(tmp_path: Path) -> None:
    found = values(tmp_path, doubles(math.inf, math.inf, math.inf), doubles(1, -math.inf, math.inf))
    assert found == ValueDifference(3, 2, 2, 0.0, 0.0)


def test_zeros_of_two_signs_differ_by_nothing(tmp_path: Path) -> None:
    assert values(tmp_path, doubles(0.0), doubles(-0.0)) == ValueDifference(1, 1, 0, 0.0, 0.0)


def test_a_difference_beyond_all_numbers_is_the_largest_one(tmp_path: Path) -> None:
    largest = sys.float_info.max
    found = values(tmp_path, doubles(largest), doubles(-largest))
    assert found.max_absolute == largest
    assert math.isfinite(found.max_relative)


def test_a_nan_that_was_cast_is_the_same_and_its_dtype_is_not(tmp_path: Path) -> None:
    a = Dtype.F32, struct.pack("<2f", math.nan, 1.5)
    b = Dtype.BF16, struct.pack("<2f", math.nan, 1.5)[2:4] + struct.pack("<f", 1.5)[2:]
    found = difference(tmp_path, a, b)
    assert found is not None
    assert found.dtypes == ("F32", "BF16")
    assert found.same_values


def test_large_integers_are_told_from_the_floats_next_to_them(tmp_path: Path) -> None:
    integers = Dtype.I64, struct.pack("<3q", 2**53 + 1, 2**53, -(2**63))
    floats = doubles(2.0**53, 2.0**53, -(2.0**63))
    found = values(tmp_path, integers, floats)
    assert (found.differing, found.max_absolute) == (1, 1.0)
    unsigned = Dtype.U64, struct.pack("<3Q", 2**53 + 1, 2**53, 2**63)
    found = values(tmp_path, integers, unsigned)
    assert (found.differing, found.max_absolute, found.max_relative) == (1, 2.0**64, 2.0)


@pytest.mark.parametrize("dtype", [Dtype.F4, Dtype.F6_E3M2, Dtype.F32, Dtype.C64])
@pytest.mark.parametrize("position", [0, 7, 8, 15, 16, 19])
def test_tensors_of_several_parts(
    dtype: Dtype, position: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "CHUNK_ELEMENTS", 8)
    whole = sum(1 << i * dtype.bits for i in range(20))
    other = whole ^ (3 << position * dtype.bits)
    size = dtype.nbytes(20)
    a, b = (dtype, whole.to_bytes(size, "little")), (dtype, other.to_bytes(size, "little"))
    found = values(tmp_path, a, b)
    assert (found.elements, found.differing) == (20, 1)
    assert found.max_absolute > 0


def test_the_command_shows_by_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", *doubles(1.0, 2.0, math.nan))
    b = write(tmp_path / "b", *doubles(1.0, 2.5, 3.0))
    assert main(["diff", str(a), str(b)]) == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("w "))
    assert row.split() == ["w", "F64", "[3]", "2", "3", "1", "0.5", "0.2"]
    assert main(["diff", str(a), str(b), "--json"]) == 1
    [tensor] = json.loads(capsys.readouterr().out)["tensors"]
    assert tensor == {
        "name": "w",
        "dtypes": ["F64", "F64"],
        "shapes": [[3], [3]],
        "values": {
            "elements": 3,
            "differing": 2,
            "not_finite": 1,
            "max_absolute": 0.5,
            "max_relative": 0.2,
        },
        "not_compared": None,
    }
