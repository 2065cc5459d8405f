"""What the bits of a tensor mean: the numbers that a framework must see in it."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from safetensors_core.dtypes import Dtype

__all__ = ["bit_patterns", "elements", "numbers", "same"]


class _Float(NamedTuple):
    """A binary float of a sign bit, an exponent and a mantissa.

    Attributes:
        exponent: Bits of the exponent.
        mantissa: Bits of the mantissa.
        bias: What is taken off the exponent.
        nan: The patterns without sign that are no number; the largest exponent's if None.
        nan_of_zero: Whether the pattern of minus zero stands for the only one that is no number.
    """

    exponent: int
    mantissa: int
    bias: int
    nan: range | None = None
    nan_of_zero: bool = False


# Sources: IEEE 754 for F16, F32 and F64; the OCP formats for 8-bit floats (OFP8, revision 1.0) and
# for microscaling (MX, version 1.0); the paper of Noune et al. (arXiv 2206.02915) for FNUZ. BF16
# is the upper half of F32.
_FLOATS = {
    Dtype.F4: _Float(2, 1, 1, range(0)),
    Dtype.F6_E2M3: _Float(2, 3, 1, range(0)),
    Dtype.F6_E3M2: _Float(3, 2, 3, range(0)),
    Dtype.F8_E5M2: _Float(5, 2, 15),
    Dtype.F8_E4M3: _Float(4, 3, 7, range(0x7F, 0x80)),
    Dtype.F8_E4M3FNUZ: _Float(4, 3, 8, range(0), nan_of_zero=True),
    Dtype.F8_E5M2FNUZ: _Float(5, 2, 16, range(0), nan_of_zero=True),
    Dtype.F16: _Float(5, 10, 15),
    Dtype.BF16: _Float(8, 7, 127),
    Dtype.F32: _Float(8, 23, 127),
    Dtype.F64: _Float(11, 52, 1023),
}
_SIGNED = {Dtype.I8, Dtype.I16, Dtype.I32, Dtype.I64}


def elements(dtype: Dtype, data: bytes) -> list[int]:
    r"""The bits of each element, as an integer without sign.

    Args:
        dtype: The element type.
        data: Bytes of a tensor, as a file holds them.

    Returns:
        One integer for each element.

    Example:
        >>> elements(Dtype.U16, b"\x01\x00\x00\x01"), elements(Dtype.F4, b"\x21")
        ([1, 256], [1, 2])
    """
    bits = dtype.bits
    if bits % 8 == 0:
        item = bits // 8
        return [int.from_bytes(data[i : i + item], "little") for i in range(0, len(data), item)]
    whole, mask = int.from_bytes(data, "little"), (1 << bits) - 1
    return [whole >> i & mask for i in range(0, len(data) * 8 - bits + 1, bits)]


def numbers(dtype: Dtype, data: bytes) -> list[Any]:
    r"""What each element stands for.

    Args:
        dtype: The element type.
        data: Bytes of a tensor, as a file holds them.

    Returns:
        A bool, an int, a float or a complex for each element.

    Example:
        >>> numbers(Dtype.BF16, b"\x80\x3f"), numbers(Dtype.I8, b"\xff")
        ([1.0], [-1])
    """
    if dtype is Dtype.C64:
        parts = iter(numbers(Dtype.F32, data))
        return [complex(real, next(parts)) for real in parts]
    return [_number(dtype, pattern) for pattern in elements(dtype, data)]


def _number(dtype: Dtype, pattern: int) -> Any:
    if dtype is Dtype.BOOL:
        return bool(pattern)
    if dtype is Dtype.F8_E8M0:
        return math.nan if pattern == 0xFF else 2.0 ** (pattern - 127)
    layout = _FLOATS.get(dtype)
    if layout is None:
        negative = dtype in _SIGNED and pattern >> dtype.bits - 1
        return pattern - (1 << dtype.bits) if negative else pattern
    sign, pattern = divmod(pattern, 1 << dtype.bits - 1)
    exponent, mantissa = divmod(pattern, 1 << layout.mantissa)
    if layout.nan_of_zero and sign and not pattern:
        return math.nan
    if layout.nan is None and exponent == (1 << layout.exponent) - 1:
        number = math.nan if mantissa else math.inf
    elif layout.nan and pattern in layout.nan:
        number = math.nan
    else:
        if exponent:
            mantissa += 1 << layout.mantissa
        number = math.ldexp(mantissa, max(exponent, 1) - layout.bias - layout.mantissa)
    return -number if sign else number


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether numbers are those expected: the sign of zero counts, and NaN equals NaN.

    Args:
        found: Numbers of any type that converts to those of Python.
        expected: What `numbers` gave.

    Returns:
        True if all are the same.

    Example:
        >>> same([-0.0], [0.0]), same([float("nan")], [float("nan")])
        (False, True)
    """
    return len(found) == len(expected) and all(map(_same, found, expected))


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, bool):  # also NumPy's, but not 0 and 1
        return type(found).__name__.startswith("bool") and bool(found) == expected
    if isinstance(expected, complex):
        found = complex(found)
        return _same(found.real, expected.real) and _same(found.imag, expected.imag)
    if isinstance(expected, float):
        try:
            found = float(found)
        except TypeError:  # a complex number
            return False
        return _bits(found) == _bits(expected) or (math.isnan(found) and math.isnan(expected))
    return bool(found == expected)


def _bits(number: float) -> bytes:
    return struct.pack("<d", number)


def bit_patterns(dtype: Dtype, count: int = 64) -> bytes:
    """Elements that tell a type from all others: small numbers, signs, limits, subnormals.

    Args:
        dtype: The element type.
        count: How many elements; a multiple of 4.

    Returns:
        The bytes of a tensor of `count` elements.

    Example:
        >>> numbers(Dtype.I16, bit_patterns(Dtype.I16, 4))
        [0, -32768, 1, -1]
    """
    if dtype is Dtype.BOOL:
        return bytes(i * i % 3 % 2 for i in range(count))
    bits = 32 if dtype is Dtype.C64 else dtype.bits
    top = 1 << bits - 1
    found = [0, top, 1, 2 * top - 1, top - 1, top + 1]
    layout = _FLOATS.get(Dtype.F32 if dtype is Dtype.C64 else dtype)
    if layout:
        one = layout.bias << layout.mantissa
        infinity = ((1 << layout.exponent) - 1) << layout.mantissa
        found += [one, one | top, one + 1, infinity % top, infinity % top | top]
        # A quiet and a signalling NaN with a payload, where the type has several.
        found += [(infinity | 1) % top, (infinity | 1 << layout.mantissa - 1 | 1) % top | top]
    step = 0x9E3779B97F4A7C15 >> 64 - bits | 1
    total = count * (2 if dtype is Dtype.C64 else 1)
    found += [i * step % (2 * top) for i in range(1, total)]
    if bits % 8 == 0:
        return b"".join(pattern.to_bytes(bits // 8, "little") for pattern in found[:total])
    whole = sum(pattern << i * bits for i, pattern in enumerate(found[:count]))
    return whole.to_bytes(count * bits // 8, "little")
