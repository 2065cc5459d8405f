"""Writing files to URLs, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from safetensors_core.errors import InvalidInputError, RemoteError, SafetensorError
from safetensors_core.parts import PART_SUFFIX, part_prefix
from safetensors_core.sources.connection import Connection
from safetensors_core.sources.urls import shown

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RemoteFile", "connect", "naming"]

_PIECE = 8 * 1024 * 1024  # bytes that are copied at once: fsspec keeps what it is given
_MOST_PARTS = 9000  # S3 takes 10,000 parts


def connect(url: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The file system of a URL that shall be written to.

    Args:
        url: The URL.
        storage_options: Settings of the file system.

    Returns:
        An instance of fsspec's file system, and the path as it takes it.

    Raises:
        InvalidInputError: It cannot be written to, or is not installed, or the settings do not
            fit.

    Example:
        >>> connect("https://example.org/model.safetensors", None)
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: ... cannot be written to over HTTP: save to a
        local path, or to a storage system such as s3://
    """
    if url.partition("://")[0].lower() in {"http", "https"}:
        raise InvalidInputError(
            f"{shown(url)} cannot be written to over HTTP: save to a local path, or to a storage "
            f"system such as s3://"
        )
    with naming(url):
        return Connection(url, storage_options or {}).get()


@contextlib.contextmanager
def naming(url: str) -> Iterator[None]:
    """Turn what a file system of fsspec raises inside a block into this package's errors.

    Args:
        url: The URL, as the user gave it.

    Raises:
        FileNotFoundError: The bucket, the repository or the file does not exist.
        PermissionError: It may not be written to.
        RemoteError: Anything else went wrong.

    Example:
        >>> with naming("s3://bucket/model.safetensors"):
        ...     raise FileNotFoundError("The specified bucket does not exist")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] The specified bucket does not exist: 's3://bucket/model...'
    """
    location = shown(url)
    try:
        yield
    except SafetensorError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, _text(error), location) from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, _text(error), location) from error
    except NotImplementedError as error:
        raise InvalidInputError(
            f"{location} cannot be written to: {_text(error)}. Save to a local path and copy the "
            f"file there"
        ) from error
    except Exception as error:
        # Each file system has errors of its own.
        raise RemoteError(f"writing failed: {_text(error)}", location) from error


def _text(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or f"the file system refused with {type(error).__name__}"


class RemoteFile:
    """A file at a URL, which appears when its block ends without an error.

    What object stores are sent appears when it is complete and committed. Other systems get the
    file under a temporary name beside its place, ``.NAME.TOKEN.safetensors-part``, and rename it.

    Args:
        url: The URL.
        storage_options: Settings of the file system.

    Raises:
        InvalidInputError: The URL cannot be written to.
        OSError: The storage refuses, with the URL.

    Example:
        >>> import fsspec
        >>> with RemoteFile("memory://a.bin", None) as file:
        ...     file.write([memoryview(b"abc")])
        >>> fsspec.filesystem("memory").cat("/a.bin")
        b'abc'
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None) -> None:
        self.url = url
        self._fs, self._path = connect(url, storage_options)
        self._part = ""
        self._file: Any = None
        self._commits = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
                self.commit()
        finally:
            self.discard()

    def naming(self) -> contextlib.AbstractContextManager[None]:
        """Turn what fsspec raises inside a block into errors that name the URL.

        Example:
            >>> import fsspec
            >>> with RemoteFile("memory://a.bin", None) as file, file.naming():
            ...     file.write([memoryview(b"abc")])
        """
        return naming(self.url)

    def open(self) -> None:
        """Begin to write. Nothing is to be seen at the URL before `commit`.

        Raises:
            OSError: The storage refuses.

        Example:
            >>> import fsspec
            >>> file = RemoteFile("memory://begun.bin", None)
            >>> file.open()
            >>> fsspec.filesystem("memory").exists("/begun.bin")
            False
            >>> file.discard()
        """
        with self.naming():
            from fsspec.spec import AbstractBufferedFile

            folder, slash, name = self._path.rpartition("/")
            part = f"{folder}{slash}{part_prefix(name)}{secrets.token_hex(8)}{PART_SUFFIX}"
            file = self._fs.open(part, "wb")
            if not isinstance(file, AbstractBufferedFile):
                self._file, self._part = file, part
                return
            # Nothing has been sent yet, and nothing shall be: such a file needs no temporary name,
            # because it becomes visible when it is complete.
            file.closed = True
            self._commits = type(file).commit is not AbstractBufferedFile.commit
            if not self._commits:  # then closing it does that
                self._file = self._fs.open(self._path, "wb")
                return
            self._file = self._fs.open(self._path, "wb", autocommit=False)
            # fsspec notes the file for the next transaction of anybody.
            with contextlib.suppress(ValueError):
                self._fs.transaction.files.remove(self._file)

    def reserve(self, nbytes: int) -> None:
        """Let the parts of the file be so large that few enough are needed.

        Args:
            nbytes: Size that the file will have.

        Example:
            >>> import fsspec
            >>> with RemoteFile("memory://a.bin", None) as file:
            ...     file.reserve(1000)
        """
        if not self._part:
            self._file.blocksize = max(self._file.blocksize, nbytes // _MOST_PARTS + 1)

    def write(self, views: list[memoryview]) -> None:
        """Append buffers.

        Args:
            views: Buffers of bytes.

        Raises:
            OSError: The storage refuses.

        Example:
            >>> import fsspec
            >>> with RemoteFile("memory://a.bin", None) as file:
            ...     file.write([memoryview(b"ab"), memoryview(b"c")])
        """
        with self.naming():
            for view in views:
                for begin in range(0, len(view), _PIECE):
                    self._file.write(view[begin : begin + _PIECE])

    def finish(self) -> None:
        """Send what is left, as far as that does not make the file visible.

        Raises:
            OSError: The storage refuses.

        Example:
            >>> import fsspec
            >>> with RemoteFile("memory://a.bin", None) as file:
            ...     file.finish()
        """
        with self.naming():
            if self._part or self._commits:
                self._file.close()

    def commit(self) -> None:
        """Make the file visible.

        Raises:
            OSError: The storage refuses.

        Example:
            >>> import fsspec
            >>> with RemoteFile("memory://a.bin", None) as file:
            ...     file.finish()
            ...     file.commit()
            ...     fsspec.filesystem("memory").exists("/a.bin")
            True
        """
        if self._file is None:
            return
        with self.naming():
            if self._part:
                self._fs.mv(self._part, self._path)
                self._part = ""
            elif self._commits:
                self._file.commit()
            else:
                self._file.close()
            self._file = None
            self._fs.invalidate_cache(self._path)

    def discard(self) -> None:
        """Give up a file that is not committed; nothing of it stays.

        Example:
            >>> import fsspec
            >>> file = RemoteFile("memory://discarded.bin", None)
            >>> file.open()
            >>> file.discard()
            >>> fsspec.filesystem("memory").exists("/discarded.bin")
            False
        """
        file, self._file = self._file, None
        if file is None:
            return
        # Whatever fails here must not hide why the file is given up.
        with contextlib.suppress(Exception):
            if self._part:
                file.close()
                self._fs.rm_file(self._part)
                return
        with contextlib.suppress(Exception):
            file.discard()
        # Closing would commit what there is, and so would the end of the object.
        file.closed = True
        spooled = getattr(getattr(file, "temp_file", None), "name", None)
        if spooled is not None:  # what huggingface_hub would have sent
            with contextlib.suppress(OSError):
                os.unlink(spooled)
