"""The name that somebody meant who gave one that does not exist."""

from __future__ import annotations

__all__ = ["closest_name"]

# Comparing names takes tens of microseconds each, and an error may be one of thousands that a
# program catches.
_MOST_COMPARED = 1000


def closest_name(wanted: str, names: list[str]) -> str | None:
    """The most similar name, if any is similar.

    Args:
        wanted: The name that was given.
        names: Those that exist.

    Returns:
        One of them; None where no name is similar, or where too many are to compare them all.

    Example:
        >>> closest_name("wte.wieght", ["wpe.bias", "wte.weight"])
        'wte.weight'
    """
    if len(names) > _MOST_COMPARED:
        # A slip of one or two letters leaves one half of a name as it was.
        head, tail = wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]
        names = [
            name
            for name in names
            if abs(len(name) - len(wanted)) <= 2 and (name.startswith(head) or name.endswith(tail))
        ]
    if not 0 < len(names) <= _MOST_COMPARED:
        return None
    import difflib

    return next(iter(difflib.get_close_matches(wanted, names, n=1)), None)
