"""Files in S3, read in ranges through s3fs."""

from __future__ import annotations

import errno
import re
from typing import Any

from safetensors_core.errors import FileChangedError, RemoteError, SafetensorError
from safetensors_core.sources.attempts import Interrupted, stall_timeout
from safetensors_core.sources.connection import Connection
from safetensors_core.sources.parts import Part
from safetensors_core.sources.remote_source import RemoteSource
from safetensors_core.sources.stored import translated

__all__ = ["S3Source"]

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_PIECE = 1024 * 1024  # bytes that are taken from an answer at once


class S3Source(RemoteSource):
    """An object in S3, or in a storage that speaks its language.

    Requests are made by s3fs, with its settings, and repeated by it. Each says which version of
    the object it wants, so that a replaced one is noticed by the server.

    Args:
        connection: An `S3FileSystem` and the path.
        location: The URL, as errors show it.

    Example:
        >>> from safetensors_core import read_header
        >>> read_header("s3://bucket/model.safetensors")  # doctest: +SKIP
    """

    def __init__(self, connection: Connection, location: str) -> None:
        super().__init__(location)
        self._connection = connection

    async def _attempt(self, part: Part) -> None:
        import asyncio

        answer = await self._ask(part)
        if answer is None:
            return
        body = answer["Body"]
        try:
            self._check(answer, part)
            while part.missing:
                data = await asyncio.wait_for(body.read(_PIECE), stall_timeout())
                if not data:
                    return
                part.put(data)
        except SafetensorError:
            raise
        except Exception as error:  # s3fs does not repeat what fails here, so no matter what it is
            raise Interrupted(f"{type(error).__name__}: {error}") from error
        finally:
            body.close()

    async def _ask(self, part: Part) -> dict[str, Any] | None:
        """The beginning of an answer; None where the object is empty."""
        filesystem, path = self._connection.get()
        bucket, key, revision = filesystem.split_path(path)
        given = {"Bucket": bucket, "Key": key, "Range": f"bytes={part.position}-{part.end - 1}"}
        if revision:
            given["VersionId"] = revision
        if self._version:
            given["IfMatch"] = str(self._version)
        try:
            answer: dict[str, Any] = await filesystem._call_s3("get_object", **given)
            return answer
        except Exception as error:
            status = _status(error)
            if status == 416 and self._size is None:
                self._saw(0, None)
                part.cut(0)
                return None
            if status in {412, 416}:
                raise FileChangedError(
                    "it changed while it was read. Open it again", self.location, status=status
                ) from error
            raise _final(error, status, self.location) from error

    def _check(self, answer: dict[str, Any], part: Part) -> None:
        """Compare what the answer is with what was asked for."""
        found = _CONTENT_RANGE.fullmatch(answer.get("ContentRange") or "")
        begin, last, size = map(int, found.groups()) if found else (-1, -1, -1)
        if begin != part.position or last >= part.end:
            raise RemoteError(
                f"bytes {part.position:,} to {part.end - 1:,} were asked for, and the storage "
                f"answered {answer.get('ContentRange')!r}",
                self.location,
            )
        self._saw(size, answer.get("ETag"))
        part.cut(size)


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error of s3fs."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            found: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return found
    return None


def _final(error: Exception, status: int | None, location: str) -> Exception:
    """The error to raise once s3fs has given up."""
    if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
        text = f'{error}. For a public bucket: storage_options={{"anon": True}}'
        return PermissionError(errno.EACCES, text, location)
    result = translated(error, location)
    if isinstance(result, Interrupted):
        return RemoteError(result.detail, location, status=status)
    return result
