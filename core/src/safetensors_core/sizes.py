"""Sizes as people write them."""

from __future__ import annotations

import re

from safetensors_core.errors import InvalidInputError

__all__ = ["parse_size", "size_text"]

_UNITS = ("kB", "MB", "GB", "TB")


def size_text(nbytes: int) -> str:
    """A size in decimal units.

    Args:
        nbytes: Size in bytes.

    Returns:
        The size with at least three digits, exact below 10,000 bytes.

    Example:
        >>> size_text(301_000_000), size_text(12_345), size_text(1)
        ('301 MB', '12.3 kB', '1 byte')
    """
    if nbytes < 10_000:
        return f"{nbytes:,} bytes" if nbytes != 1 else "1 byte"
    power = min((len(str(nbytes)) - 1) // 3, len(_UNITS))
    amount, unit = nbytes / 1000**power, _UNITS[power - 1]
    return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.1f} {unit}"


_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?)?B?", re.IGNORECASE)
_PREFIXES = "kmgt"


def parse_size(size: int | str) -> int:
    """The number of bytes that a user means.

    Args:
        size: A number of bytes, or a text such as ``"5GB"`` (10^9 bytes each), ``"500MB"`` or
            ``"2GiB"`` (2^30 bytes each).

    Returns:
        The size in bytes; at least 1.

    Raises:
        InvalidInputError: It is no such text, or not positive.

    Example:
        >>> parse_size("5GB"), parse_size("2GiB"), parse_size(100)
        (5000000000, 2147483648, 100)
    """
    nbytes = 0
    if isinstance(size, int) and not isinstance(size, bool):
        nbytes = size
    elif isinstance(size, str) and (found := _SIZE.fullmatch(size.strip())):
        amount, prefix = found[1], (found[2] or "").lower()
        power = _PREFIXES.index(prefix[0]) + 1 if prefix else 0
        nbytes = int(float(amount) * (1024 if prefix.endswith("i") else 1000) ** power)
    if nbytes < 1:
        raise InvalidInputError(
            f"expected a size such as 5_000_000_000, '5GB' or '2GiB', got {size!r}"
        )
    return nbytes
