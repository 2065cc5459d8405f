"""Our errors in the words of the reference, which programs and their tests rely on.

The words were read off version 0.8.0 of the reference. Our own error, which says more, stays
behind each as its cause and is shown with it.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from types import TracebackType

from safetensors_core.errors import (
    ClosedFileError,
    FrameworkNotFoundError,
    HeaderError,
    InvalidInputError,
    Reason,
    SafetensorError,
    SliceError,
    TensorNotFoundError,
    UnsupportedDtypeError,
)

__all__ = ["reading", "saving", "unknown_dtype"]

_DTYPES = (
    "bool, int8, uint8, int16, uint16, int32, uint32, int64, uint64, float16, float32, float64, "
    "bfloat16, float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, float8_e5m2fnuz, float8_e8m0fnu, "
    "float4_e2m1fn_x2, complex64"
)
_TOO_LARGE = "header too large"
_OFFSET = "invalid offset for tensor `{tensor}`"
_NOT_COVERED = "incomplete metadata, file not fully covered"

# What begins as another format has a length that is none: eight letters are a large number.
_HEADER = {
    Reason.EMPTY: "header too small",
    Reason.TOO_SHORT: "header too small",
    Reason.GIT_LFS_POINTER: _TOO_LARGE,
    Reason.HTML_PAGE: _TOO_LARGE,
    Reason.ZIP_ARCHIVE: _TOO_LARGE,
    Reason.PICKLE: _TOO_LARGE,
    Reason.OTHER_FORMAT: _TOO_LARGE,
    Reason.HEADER_TOO_LARGE: _TOO_LARGE,
    Reason.HEADER_TRUNCATED: "invalid header length",
    Reason.TRUNCATED: _NOT_COVERED,
    Reason.TRAILING_DATA: _NOT_COVERED,
    Reason.NOT_UTF8: "invalid UTF-8 in header: {detail}",
    Reason.REVERSED_OFFSETS: _OFFSET,
    Reason.GAP: _OFFSET,
    Reason.OVERLAP: _OFFSET,
    Reason.SIZE_OVERFLOW: "overflow computing buffer size from shape and/or element type",
    Reason.PARTIAL_BYTE: (
        "The slice is slicing for subbytes dtypes, and the slice does not end up at a byte "
        "boundary, this is invalid."
    ),
    Reason.SIZE_MISMATCH: "invalid shape, data type, or offset for tensor",
}


class reading:  # noqa: N801  # used as a function: a generator would cost more than a read
    """Let errors of opening and reading have the types and words of the reference.

    Args:
        what: What the reference says it was at: ``"deserializing"`` for bytes in memory.

    Example:
        >>> with reading():
        ...     raise ClosedFileError("model.safetensors is closed")
        Traceback (most recent call last):
        safetensors_core.errors.SafetensorError: File is closed
    """

    __slots__ = ("_what",)

    def __init__(self, what: str = "deserializing header") -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise the reference's error in the place of ours."""
        if error is not None:
            translated = _translated(error, self._what)
            if translated is not None:
                raise translated from error


def _translated(error: BaseException, what: str) -> Exception | None:
    if isinstance(error, FileNotFoundError):
        # Without `filename`, which would add Python's own words in front.
        missing = FileNotFoundError(f"No such file or directory: {error.filename}")
        missing.errno = errno.ENOENT
        return missing
    if isinstance(error, FrameworkNotFoundError):
        return ImportError(str(error))
    if isinstance(error, InvalidInputError):
        # A device that cannot be used: programs know what the framework itself raises.
        of_framework = isinstance(error.__cause__, (AssertionError, RuntimeError))
        return RuntimeError(str(error)) if of_framework else None
    words = _words(error, what)
    return None if words is None else SafetensorError(words)


def _words(error: BaseException, what: str) -> str | None:
    if isinstance(error, HeaderError):
        words = _HEADER.get(error.reason, "invalid JSON in header: {detail}")
        return f"Error while {what}: {words.format(tensor=error.tensor, detail=error.detail)}"
    if isinstance(error, UnsupportedDtypeError):
        return f"Dtype not understood: {error.dtype}"
    if isinstance(error, TensorNotFoundError):
        return f"File does not contain tensor {error.tensor}"
    if isinstance(error, ClosedFileError):
        return "File is closed"
    if isinstance(error, SliceError):
        return str(error)
    return None


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Let errors of a save have the types and words of the reference.

    Example:
        >>> with saving():
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        safetensors_core.errors.SafetensorError: Error while serializing: I/O error: No space ...
    """
    try:
        yield
    except OSError as error:
        raise SafetensorError(
            f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
        ) from error
    except UnsupportedDtypeError as error:
        raise unknown_dtype(error.dtype.removeprefix("torch.")) from error
    except FrameworkNotFoundError as error:  # nobody's tensor
        raise TypeError(str(error)) from error


def unknown_dtype(name: str) -> SafetensorError:
    """What the reference raises for a dtype that the format does not have.

    Args:
        name: The dtype's name.

    Example:
        >>> str(unknown_dtype("int4"))
        'Unknown dtype "int4". Supported dtypes: bool, int8, ...'
    """
    return SafetensorError(f'Unknown dtype "{name}". Supported dtypes: {_DTYPES}')
