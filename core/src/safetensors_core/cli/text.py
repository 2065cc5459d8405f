"""Text for people: inert names, shortened values, sizes and times with units."""

from __future__ import annotations

import re

__all__ = ["duration_text", "inert", "shortened", "without_surrogates"]

_SURROGATE = re.compile("[\ud800-\udfff]")


def inert(text: str) -> str:
    r"""Text that a terminal shows as it is, whatever it holds.

    Control characters, escape sequences, line breaks and marks that reorder or hide text are
    replaced by what Python would write for them.

    Args:
        text: Any text, from a file or a plugin.

    Returns:
        The same text where all of it is printable, and one printable line otherwise.

    Example:
        >>> print(inert("w\x1b[31m\u202e"))
        w\x1b[31m\u202e
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in without_surrogates(text)
    )


def shortened(text: str, limit: int) -> str:
    """Text with its end left out where it is long, and a note that says so.

    Args:
        text: Any text.
        limit: Characters to keep.

    Returns:
        The text, or its beginning and the number of characters that it has.

    Example:
        >>> shortened("x" * 5000, 10)
        'xxxxxxxxxx… (5,000 characters, --json shows all)'
    """
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters, --json shows all)"


def duration_text(seconds: float) -> str:
    """A duration in the unit that suits it.

    Args:
        seconds: Duration in seconds.

    Returns:
        The duration in seconds or milliseconds.

    Example:
        >>> duration_text(1.2345), duration_text(0.00042)
        ('1.23 s', '0.42 ms')
    """
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"


def without_surrogates(text: str) -> str:
    r"""Text that UTF-8 can encode.

    Python stands a lone surrogate for a byte of a path that is not UTF-8.

    Args:
        text: Any text, a path for example.

    Returns:
        The text with those bytes, and all other surrogates, as escapes.

    Example:
        >>> print(without_surrogates("model-\udcff"))
        model-\xff
    """
    return _SURROGATE.sub(_surrogate_text, text)


def _surrogate_text(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
