"""The file systems of fsspec, and what to install where one is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from safetensors_core.errors import InvalidInputError
from safetensors_core.sources.urls import shown, shown_within

__all__ = ["Connection", "is_known"]

# Schemes that are fsspec's, for who has not installed it; all others are taken for a plugin's.
_USUAL = {
    *("abfs", "abfss", "adl", "az", "ftp", "gcs", "gs", "hdfs", "hf", "http", "https", "memory"),
    *("s3", "s3a", "sftp", "ssh", "webhdfs"),
}
_REMEDY = 'Try: pip install "safetensors-core[remote]"'


def is_known(url: str) -> bool:
    """Whether fsspec has a file system for a URL.

    Args:
        url: The URL.

    Returns:
        False where nobody knows its scheme.

    Raises:
        InvalidInputError: fsspec, or the package of the file system, is not installed.

    Example:
        >>> is_known("acme://weights")
        False
    """
    scheme = url.partition("://")[0].lower()
    try:
        import fsspec
    except ImportError:
        if scheme not in _USUAL:
            return False
        raise InvalidInputError(
            f"{shown(url)}: URLs are read with fsspec, which is not installed. {_REMEDY}"
        ) from None
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        return False
    except ImportError as error:
        remedy = f". {_REMEDY}" if scheme in {"http", "https"} else ""
        raise InvalidInputError(f"{shown(url)}: {error}{remedy}") from error
    return True


class Connection:
    """A file system of fsspec and a path in it.

    A process that was forked has event loops and sockets that do not work; it connects anew.

    Args:
        url: The URL.
        storage_options: The settings of the file system.

    Raises:
        InvalidInputError: It is not installed, or the settings do not fit.
        OSError: It cannot be reached.

    Example:
        >>> Connection("acme://weights", {})
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: no file system is known for acme://weights
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        if not is_known(url):
            raise InvalidInputError(f"no file system is known for {shown(url)}")
        if not isinstance(storage_options, Mapping):
            raise InvalidInputError(
                f"storage_options must be a mapping, got {type(storage_options).__name__}"
            )
        self._url = url
        self._options = dict(storage_options)
        self._process = os.getpid()
        self._made = self._make()

    def get(self) -> tuple[Any, str]:
        """The file system and the path.

        Returns:
            An instance that fsspec may share with others, and the path as it takes it.
        """
        if self._process != os.getpid():
            self._made = self._make()
            self._process = os.getpid()
        return self._made

    def _make(self) -> tuple[Any, str]:
        import fsspec

        scheme = self._url.partition("://")[0].lower()
        try:
            # Not by the URL, which fsspec would take apart at the `::` of an address.
            if scheme in {"http", "https"}:
                return fsspec.filesystem(scheme, **self._options), self._url
            found: tuple[Any, str] = fsspec.core.url_to_fs(self._url, **self._options)
        except (TypeError, ValueError, ImportError, IsADirectoryError) as error:
            raise InvalidInputError(
                f"{shown(self._url)} cannot be opened with these storage options: "
                f"{shown_within(str(error))}"
            ) from error
        return found
