"""URLs as errors may show them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["shown", "shown_within", "split_path"]

_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,19}://[^\s'\"<>]+")
# Not within `[::1]`, the address of a host.
_LINK = re.compile(r"::(?=[A-Za-z][\w+.-]*(?:://|::|$))")
_WEB = re.compile(r"(https?://[^/?#]*)([^?#]*)(.*)", re.DOTALL)
# These file systems of fsspec have the paths of the one behind them.
_CACHE = re.compile(r"(?:blockcache|cached|filecache|simplecache)://[^:]*::")


def shown(url: str) -> str:
    """A URL without what may give access: user, password, query and fragment.

    Args:
        url: The URL, or several in a chain with ``::`` between them, as fsspec has them.

    Returns:
        Scheme, host, port and path.

    Example:
        >>> shown("https://me:secret@example.org:8080/model.safetensors?X-Amz-Signature=0123")
        'https://example.org:8080/model.safetensors'
    """
    return "::".join(map(_shown, _LINK.split(url)))


def shown_within(text: str) -> str:
    """A text with all URLs in it as errors may show them.

    Args:
        text: What another library says of an error.

    Returns:
        The text without what may give access.

    Example:
        >>> shown_within("404, url='https://example.org/a?X-Amz-Signature=0123'")
        "404, url='https://example.org/a'"
    """
    return _URL.sub(lambda found: shown(found[0]), text)


def split_path(url: str) -> tuple[str, str, str]:
    """Cut the path out of a URL.

    Args:
        url: The URL, or several in a chain: then the path is that of the file in an archive.

    Returns:
        What is before it, the path, and what is behind it.

    Example:
        >>> split_path("https://example.org/model/?token=1")
        ('https://example.org', '/model/', '?token=1')
        >>> split_path("zip://model::s3://bucket/a.zip")
        ('zip://', 'model', '::s3://bucket/a.zip')
    """
    if web := _WEB.fullmatch(url):
        front, path, behind = web.groups()
        return front, path, behind
    if cache := _CACHE.match(url):
        front, path, behind = split_path(url[cache.end() :])
        return cache[0] + front, path, behind
    scheme, mark, rest = url.partition("://")
    path, link, behind = rest.partition("::")
    return scheme + mark, path, link + behind


def _shown(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if scheme.lower() not in {"http", "https"}:
        # Elsewhere, `?` and `#` may stand in names; only what S3 and others put behind it goes.
        rest, mark, query = rest.partition("?")
        rest += mark + query if "=" not in query else ""
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket that is not closed
        return f"{scheme}://..."
    return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
