"""How far a long operation is, as it tells whoever asked to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from safetensors_core.errors import InvalidInputError

__all__ = ["Progress", "check_progress"]

#: Called with the bytes that are done and the bytes of all, from the thread that called the
#: operation, and with rising numbers. An exception of it ends the operation, and is raised there.
Progress: TypeAlias = Callable[[int, int], object]


def check_progress(progress: object) -> None:
    """Refuse what nobody could call, before anything is done.

    Args:
        progress: What a caller gave; None for nobody to be told.

    Raises:
        InvalidInputError: It cannot be called.

    Example:
        >>> check_progress(print)
        >>> check_progress(True)
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: progress must be a function or None, got True
    """
    if progress is not None and not callable(progress):
        raise InvalidInputError(f"progress must be a function or None, got {progress!r:.80}")
