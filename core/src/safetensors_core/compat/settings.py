"""What a user may choose about the names of the reference: strictness, and waiting for the disk."""

from __future__ import annotations

import os

from safetensors_core.errors import InvalidInputError

__all__ = [
    "FSYNC",
    "STRICT",
    "check_environment",
    "choose_strict",
    "chosen_strictness",
    "is_durable",
    "is_strict",
]

STRICT = "SAFETENSORS_COMPAT_STRICT"
FSYNC = "SAFETENSORS_COMPAT_FSYNC"

_WORDS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
_before: dict[str, str | None] = {}  # what the environment said until the program chose


def is_strict() -> bool:
    """Whether what the reference refuses is refused, also where we could do it.

    Returns:
        What the environment variable `STRICT` says.

    Example:
        >>> is_strict()
        False
    """
    return _flag(STRICT)


def chosen_strictness() -> bool | None:
    """What `choose_strict` was told last.

    Returns:
        None where nothing was chosen.

    Example:
        >>> chosen_strictness() is None
        True
    """
    return is_strict() if _before else None


def choose_strict(strict: bool | None) -> None:
    """Choose for this process and those that it starts: it is told to their environment.

    Args:
        strict: Whether to be strict; None to take back what was chosen.

    Example:
        >>> choose_strict(True)
        >>> is_strict()
        True
        >>> choose_strict(None)
    """
    if strict is not None:
        _before.setdefault(STRICT, os.environ.get(STRICT))
        os.environ[STRICT] = str(int(strict))
    elif _before:
        text = _before.pop(STRICT)
        if text is None:
            del os.environ[STRICT]
        else:
            os.environ[STRICT] = text


def check_environment() -> None:
    """Refuse variables that are no answer, before a program relies on them.

    Raises:
        InvalidInputError: One is neither 0 nor 1; names it.

    Example:
        >>> check_environment()
    """
    for variable in (FSYNC, STRICT):
        _flag(variable)


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
