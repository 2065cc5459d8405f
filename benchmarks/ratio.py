"""How many times as much one takes as another, where that can be told."""

from __future__ import annotations

__all__ = ["ERRORS", "ratio"]

#: What of each metric is noise. Below 1 MiB, the kernel's count of a process's pages is.
ERRORS = {"seconds": 0.0, "rss": 1024.0**2, "anon": 1024.0**2}


def ratio(metric: str, value: float, base: float) -> float | None:
    """One amount as a multiple of another.

    Args:
        metric: What was measured.
        value: Seconds or bytes.
        base: Likewise.

    Returns:
        Their ratio; None where one of them is noise.
    """
    return value / base if min(value, base) > ERRORS[metric] else None
