"""How far a long operation is, as it tells whoever asked to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress"]

#: Called with the bytes that are done and the bytes of all, from the thread that called the
#: operation, and with rising numbers. An exception of it ends the operation, and is raised there.
Progress: TypeAlias = Callable[[int, int], object]
