"""What a conversion does to tensors besides copying them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

from safetensors_core.convert.layouts import LayoutTable
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError

__all__ = ["Changes", "parse_rename"]


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
