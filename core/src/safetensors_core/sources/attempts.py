"""What happens when a request fails: how often it is tried, and how long that may take.

Two environment variables change the defaults, for all remote files of a process:

| variable | meaning | default |
|---|---|---|
| `SAFETENSORS_REMOTE_TIMEOUT` | seconds without a byte after which a request has failed | 30 |
| `SAFETENSORS_REMOTE_CONNECTIONS` | requests for one file at the same time | 8 |
"""

from __future__ import annotations

import os
import random
import time
from email.utils import parsedate_to_datetime

from safetensors_core.errors import InvalidInputError, RemoteError

__all__ = ["Attempts", "Interrupted", "connections", "retry_after", "stall_timeout"]

_TRIES = 5
_FIRST_WAIT = 0.5  # seconds; each further one is twice as long
_LONGEST_WAIT = 30.0  # seconds, also where a server asks for more
_PROGRESS = 256 * 1024  # bytes that show that trying again is worth it


class Interrupted(Exception):  # noqa: N818  # the error is what it becomes when tries run out
    """A request failed in a way that may not happen again.

    Attributes:
        detail: What happened.
        status: What the server answered, if it did.
        wait: Seconds that the server asks to wait.

    Example:
        >>> Interrupted("the connection broke").wait
        0.0
    """

    def __init__(self, detail: str, *, status: int | None = None, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.wait = wait


class Attempts:
    """The tries that one range of a file has.

    Args:
        location: The URL, as errors show it.

    Example:
        >>> attempts = Attempts("https://example.org/a")
        >>> 0 < attempts.wait_after(Interrupted("the connection broke"), progress=0) < 1
        True
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._failed = 0

    def wait_after(self, error: Interrupted, progress: int) -> float:
        """Count a failure.

        Args:
            error: What happened.
            progress: Bytes that came before it happened.

        Returns:
            Seconds to wait before the next try.

        Raises:
            RemoteError: There is none.
        """
        if progress >= _PROGRESS:
            self._failed = 0
        self._failed += 1
        if self._failed >= _TRIES:
            raise RemoteError(
                f"{error.detail}; tried {self._failed} times", self._location, status=error.status
            ) from error
        # Clients that failed together shall not all come back together.
        wait = _FIRST_WAIT * 2.0 ** (self._failed - 1) * random.uniform(0.5, 1)  # noqa: S311
        return float(min(max(wait, error.wait), _LONGEST_WAIT))


def retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait.

    Args:
        value: The header `Retry-After`: seconds or a date; None where there is none.

    Returns:
        The seconds; 0 where they are not known.

    Example:
        >>> retry_after("7"), retry_after("soon"), retry_after("Thu, 01 Jan 1970 00:00:00 GMT")
        (7.0, 0.0, 0.0)
    """
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def stall_timeout() -> float:
    """Seconds without a single byte after which a request has failed.

    Raises:
        InvalidInputError: The environment variable is no positive number.

    Example:
        >>> stall_timeout()
        30.0
    """
    return _setting("SAFETENSORS_REMOTE_TIMEOUT", 30.0)


def connections() -> int:
    """How many requests for one file run at the same time.

    Raises:
        InvalidInputError: The environment variable is no positive number.

    Example:
        >>> connections()
        8
    """
    return max(1, int(_setting("SAFETENSORS_REMOTE_CONNECTIONS", 8.0)))


def _setting(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:  # also refuses what is not a number
        raise InvalidInputError(f"{name} is {text!r}: expected a positive number")
    return value
