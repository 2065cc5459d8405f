"""What a conversion does to tensors besides copying them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

from safetensors_core.convert.layouts import LayoutTable
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError

__all__ = ["FLOATS", "Changes", "parse_dtype", "parse_rename"]

#: Dtypes that a conversion can make others of; counts, masks, packed and complex numbers stay.
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
    "FLOAT": Dtype.F32,
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


class Changes(NamedTuple):
    """What a conversion does to tensors besides copying them.

    Attributes:
        dtype: What floating-point tensors become; None for what they are.
        rename: Regular expressions and what takes the place of their matches, one after the
            other, as `re.sub` understands them.
        keep: Patterns of names to keep, such as ``"model.*"``; empty for all.
        drop: Patterns of names to leave out.
        optimizer: Whether the state of an optimizer is kept.
        source_layout: Layout of the source; None for what its format says.
        target_layout: Layout of the result; None for that of the source.
        table: The rules between layouts.

    Example:
        >>> Changes(drop=("*.bias",)).keeps("dense.bias")
        False
    """

    dtype: Dtype | None = None
    rename: tuple[tuple[re.Pattern[str], str], ...] = ()
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    optimizer: bool = False
    source_layout: str | None = None
    target_layout: str | None = None
    table: LayoutTable | None = None

    def keeps(self, name: str) -> bool:
        """Whether a tensor of the source is converted.

        Example:
            >>> Changes(keep=("model.*",)).keeps("head.weight")
            False
        """
        kept = not self.keep or any(fnmatchcase(name, pattern) for pattern in self.keep)
        return kept and not any(fnmatchcase(name, pattern) for pattern in self.drop)

    def renamed(self, name: str, matched: set[re.Pattern[str]]) -> str:
        r"""The name of a tensor once the regular expressions are applied.

        Args:
            name: Its name in the source.
            matched: Gets the expressions that match.

        Returns:
            Its new name.

        Example:
            >>> Changes(rename=((re.compile(r"^module\."), ""),)).renamed("module.w", set())
            'w'
        """
        for expression, replacement in self.rename:
            name, count = expression.subn(replacement, name)
            if count:
                matched.add(expression)
        return name


def parse_rename(expression: str, replacement: str) -> tuple[re.Pattern[str], str]:
    r"""A regular expression and its replacement, of which `re.sub` can make use.

    Args:
        expression: The regular expression.
        replacement: What takes the place of its matches; may refer to groups.

    Returns:
        Both, checked.

    Raises:
        InvalidInputError: One is not valid, or they do not fit together.

    Example:
        >>> parse_rename("(", "")
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: '(' cannot be replaced by '': missing ), ...
    """
    try:
        compiled = re.compile(expression)
        # Against an expression that matches, and has the same groups, it is checked, too.
        names = {number: name for name, number in compiled.groupindex.items()}
        numbers = range(1, compiled.groups + 1)
        groups = (f"(?P<{names[i]}>)" if i in names else "()" for i in numbers)
        re.compile("".join(groups)).sub(replacement, "")
    except (re.error, IndexError, TypeError) as error:
        raise InvalidInputError(
            f"{expression!r} cannot be replaced by {replacement!r}: {error}"
        ) from None
    return compiled, replacement


def parse_dtype(text: str | Dtype) -> Dtype:
    """The dtype that a user means.

    Args:
        text: A code of the format or a usual name, in any case: ``"bf16"``, ``"float16"``.

    Returns:
        The dtype: a floating-point one of 8 bits or more.

    Raises:
        InvalidInputError: It is none.

    Example:
        >>> parse_dtype("bfloat16")
        <Dtype.BF16: 'BF16'>
    """
    code = str(text).upper().removeprefix("TORCH.")
    dtype = _ALIASES.get(code) or next((known for known in FLOATS if known.value == code), None)
    if dtype is None:
        known = ", ".join(sorted(dtype.value for dtype in FLOATS))
        raise InvalidInputError(f"expected a floating-point dtype ({known}), got {str(text)!r}")
    return dtype
