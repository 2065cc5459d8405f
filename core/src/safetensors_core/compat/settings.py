"""What a user may choose about the names of the reference: strictness, and waiting for the disk."""

from __future__ import annotations

import os

from safetensors_core.errors import InvalidInputError

__all__ = ["FSYNC", "STRICT", "choose_strict", "chosen_strictness", "is_durable", "is_strict"]

STRICT = "SAFETENSORS_COMPAT_STRICT"
FSYNC = "SAFETENSORS_COMPAT_FSYNC"

_WORDS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
_chosen: dict[str, bool] = {}


def is_strict() -> bool:
    """Whether what the reference refuses is refused, also where we could do it.

    Returns:
        What `choose_strict` was told; else what the environment variable `STRICT` says.

    Example:
        >>> is_strict()
        False
    """
    chosen = chosen_strictness()
    return _flag(STRICT) if chosen is None else chosen


def chosen_strictness() -> bool | None:
    """What `choose_strict` was told last.

    Returns:
        None where the environment decides.

    Example:
        >>> chosen_strictness() is None
        True
    """
    return _chosen.get(STRICT)


def choose_strict(strict: bool | None) -> None:
    """Choose for this process, whatever the environment says.

    Args:
        strict: Whether to be strict; None to go by the environment again.

    Example:
        >>> choose_strict(True)
        >>> is_strict()
        True
        >>> choose_strict(None)
    """
    if strict is None:
        _chosen.pop(STRICT, None)
    else:
        _chosen[STRICT] = strict


def is_durable() -> bool:
    """Whether a save waits until the file is on disk; the reference does not.

    Returns:
        What the environment variable `FSYNC` says.

    Example:
        >>> is_durable()
        False
    """
    return _flag(FSYNC)


def _flag(variable: str) -> bool:
    text = os.environ.get(variable, "")
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise InvalidInputError(
            f"the environment variable {variable} must be 0 or 1, got {text!r}"
        ) from None
