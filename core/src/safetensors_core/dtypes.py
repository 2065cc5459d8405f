"""The element types of the format."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Dtype"]

# Bits per element, in the order in which the format ranks the types. A writer puts
# the types of the highest rank first, so the order is part of the format's bytes.
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class Dtype(str, enum.Enum):
    """One of the format's 22 element types.

    A member equals its code, so ``info.dtype == "F32"`` holds.

    Attributes:
        bits: Width of one element, in bits: 4 and 6 for the packed types.
        rank: Position in the format's order; a writer stores high ranks first.

    Example:
        >>> Dtype("BF16").bits
        16
        >>> Dtype.F32 == "F32"
        True
        >>> max(Dtype, key=lambda dtype: dtype.rank)
        <Dtype.U64: 'U64'>
    """

    bits: int
    rank: int

    BOOL = "BOOL"
    F4 = "F4"
    F6_E2M3 = "F6_E2M3"
    F6_E3M2 = "F6_E3M2"
    U8 = "U8"
    I8 = "I8"
    F8_E5M2 = "F8_E5M2"
    F8_E4M3 = "F8_E4M3"
    F8_E8M0 = "F8_E8M0"
    F8_E4M3FNUZ = "F8_E4M3FNUZ"
    F8_E5M2FNUZ = "F8_E5M2FNUZ"
    I16 = "I16"
    U16 = "U16"
    F16 = "F16"
    BF16 = "BF16"
    I32 = "I32"
    U32 = "U32"
    F32 = "F32"
    C64 = "C64"
    F64 = "F64"
    I64 = "I64"
    U64 = "U64"

    def __new__(cls, code: str) -> Self:
        """Make the member of a code, with what the format says of it."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.bits = _BITS[code]
        member.rank = list(_BITS).index(code)
        return member

    # f"{dtype}" differs between Python versions for a str subclass: always the code.
    __str__ = str.__str__
    # Enum's own hash is written in Python and would dominate the checks of a large header.
    __hash__ = str.__hash__

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)

    def nbytes(self, elements: int) -> int:
        """Bytes that hold a number of elements.

        Args:
            elements: Number of elements.

        Returns:
            Size in bytes, rounded up where a packed type ends inside a byte.

        Example:
            >>> Dtype.F4.nbytes(6), Dtype.F64.nbytes(6)
            (3, 48)
        """
        return (elements * self.bits + 7) // 8
