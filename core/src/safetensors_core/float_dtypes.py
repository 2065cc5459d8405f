"""Floating-point dtypes that can be made of each other, and what users call them."""

from __future__ import annotations

import re

from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError

__all__ = ["FLOATS", "parse_dtype"]

#: Dtypes that others can be made of; counts, masks, packed and complex numbers stay.
FLOATS = frozenset(
    {
        Dtype.F8_E5M2,
        Dtype.F8_E4M3,
        Dtype.F8_E4M3FNUZ,
        Dtype.F8_E5M2FNUZ,
        Dtype.F16,
        Dtype.BF16,
        Dtype.F32,
        Dtype.F64,
    }
)
_ALIASES = {
    "BFLOAT16": Dtype.BF16,
    "DOUBLE": Dtype.F64,
    "FLOAT16": Dtype.F16,
    "FLOAT32": Dtype.F32,
    "FLOAT64": Dtype.F64,
    "FLOAT8_E4M3FN": Dtype.F8_E4M3,
    "FLOAT8_E4M3FNUZ": Dtype.F8_E4M3FNUZ,
    "FLOAT8_E5M2": Dtype.F8_E5M2,
    "FLOAT8_E5M2FNUZ": Dtype.F8_E5M2FNUZ,
    "FP16": Dtype.F16,
    "FP32": Dtype.F32,
    "FP64": Dtype.F64,
    "HALF": Dtype.F16,
}


# A framework's own object shows its name at the end: torch.float16, <dtype: 'float16'>,
# <class 'numpy.float16'>.
_LAST_WORD = re.compile(r"(\w+)\W*$")


def parse_dtype(wanted: object) -> Dtype:
    """The dtype that a user means.

    Args:
        wanted: A code of the format or a usual name, in any case: ``"bf16"``, ``"float16"``; or
            what a framework calls it: ``torch.bfloat16``, ``numpy.float16``. Not ``"float"``,
            which means different widths to different people.

    Returns:
        The dtype: a floating-point one of 8 bits or more.

    Raises:
        InvalidInputError: It is none.

    Example:
        >>> parse_dtype("bfloat16")
        <Dtype.BF16: 'BF16'>
    """
    found = _LAST_WORD.search(str(wanted))
    code = found[1].upper() if found else ""
    dtype = _ALIASES.get(code) or next((known for known in FLOATS if known.value == code), None)
    if dtype is None:
        known = ", ".join(sorted(dtype.value for dtype in FLOATS))
        raise InvalidInputError(f"expected a floating-point dtype ({known}), got {str(wanted)!r}")
    return dtype
