"""Sizes as people write them."""

from __future__ import annotations

__all__ = ["size_text"]

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
