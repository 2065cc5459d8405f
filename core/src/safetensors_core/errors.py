"""The exceptions of the package, one tree with one root.

```
SafetensorError
├── HeaderError               the bytes are not a valid safetensors file; `reason` says why
├── UnsupportedDtypeError     a framework cannot represent a dtype exactly
├── TensorNotFoundError       no tensor of that name             (also a KeyError)
├── SliceError                an index does not fit the tensor   (also an IndexError)
├── InvalidInputError         an argument cannot be used         (also a ValueError)
│   └── SharedMemoryError     tensors overlap in memory          (also a RuntimeError)
├── ClosedFileError           the file was closed                (also a ValueError)
├── StateDictError            a file and a model do not match    (also a RuntimeError)
└── PluginError               a plugin cannot be used
    └── FrameworkNotFoundError    no installed plugin answers
```

What the file system refuses stays an `OSError` with its `errno` and `filename`.

Every error survives pickle and copy with its message and attributes, and so reaches the parent of a
worker process as it was raised.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "ClosedFileError",
    "FrameworkNotFoundError",
    "HeaderError",
    "InvalidInputError",
    "PluginError",
    "Reason",
    "SafetensorError",
    "SharedMemoryError",
    "SliceError",
    "StateDictError",
    "TensorNotFoundError",
    "UnsupportedDtypeError",
]

# Comparing names takes tens of microseconds each, and an error may be one of thousands that a
# program catches.
_MOST_COMPARED = 1000


class Reason(str, enum.Enum):
    """Why a header was rejected: one stable code for each rule of the format.

    A member equals its code, so programs may compare with plain strings.

    Example:
        >>> Reason.TRUNCATED == "truncated"
        True
    """

    # the file as a whole
    EMPTY = "empty"
    TOO_SHORT = "too-short"
    GIT_LFS_POINTER = "git-lfs-pointer"
    HTML_PAGE = "html-page"
    ZIP_ARCHIVE = "zip-archive"
    PICKLE = "pickle"
    OTHER_FORMAT = "other-format"
    HEADER_TOO_LARGE = "header-too-large"
    HEADER_TRUNCATED = "header-truncated"
    TRUNCATED = "truncated"
    TRAILING_DATA = "trailing-data"
    # the header as text
    NOT_UTF8 = "not-utf8"
    NOT_AN_OBJECT = "not-an-object"
    INVALID_JSON = "invalid-json"
    LONE_SURROGATE = "lone-surrogate"
    TOO_DEEP = "too-deep"
    # names and fields
    DUPLICATE_NAME = "duplicate-name"
    DUPLICATE_FIELD = "duplicate-field"
    DUPLICATE_METADATA = "duplicate-metadata"
    INVALID_METADATA = "invalid-metadata"
    INVALID_ENTRY = "invalid-entry"
    MISSING_FIELD = "missing-field"
    UNKNOWN_DTYPE = "unknown-dtype"
    INVALID_SHAPE = "invalid-shape"
    INVALID_OFFSETS = "invalid-offsets"
    # what the entries say together
    REVERSED_OFFSETS = "reversed-offsets"
    GAP = "gap"
    OVERLAP = "overlap"
    SIZE_OVERFLOW = "size-overflow"
    PARTIAL_BYTE = "partial-byte"
    SIZE_MISMATCH = "size-mismatch"

    __str__ = str.__str__


class SafetensorError(Exception):
    """Root of every error that this package raises itself.

    Example:
        >>> issubclass(HeaderError, SafetensorError)
        True
    """

    # Python's own way calls the class with `args`, which fails wherever a constructor takes more
    # than that. Here no constructor runs: the attributes are all that an error is made of.
    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), *self.args), self.__dict__ or None


def _restore(kind: type[SafetensorError], *args: object) -> SafetensorError:
    return kind.__new__(kind, *args)


class HeaderError(SafetensorError):
    """The bytes are not a valid safetensors file.

    Attributes:
        reason: The broken rule, machine-readable.
        detail: What was found and what was expected, without the location.
        location: The file or URL; None where the bytes came from memory.
        tensor: The tensor whose entry is wrong; None where no single one is.

    Example:
        >>> str(HeaderError(Reason.EMPTY, "the file is empty", location="a.safetensors"))
        'a.safetensors: the file is empty'
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        tensor: str | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.tensor = tensor
        self.location = location

    def __str__(self) -> str:
        return f"{self.location}: {self.detail}" if self.location else self.detail


class UnsupportedDtypeError(SafetensorError):
    """A framework cannot represent a dtype exactly.

    Attributes:
        dtype: The format's code (``"F4"``) or the framework's own name.
        framework: Name of the framework.
        tensor: Name of the tensor, once it is known.
        location: The file, once it is known.

    Example:
        >>> str(UnsupportedDtypeError("F6_E2M3", "torch", tensor="w"))
        "tensor 'w': dtype F6_E2M3 has no exact equivalent in torch"
    """

    def __init__(
        self, dtype: object, framework: str, *, tensor: str | None = None, remedy: str = ""
    ) -> None:
        self.dtype = str(dtype)
        super().__init__(self.dtype, framework)
        self.framework = framework
        self.tensor = tensor
        self.location: str | None = None
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location is not None else ""
        where += f"tensor {self.tensor!r}: " if self.tensor is not None else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{where}dtype {self.dtype} has no exact equivalent in {self.framework}{remedy}"


class TensorNotFoundError(SafetensorError, KeyError):
    """The file holds no tensor of that name.

    Attributes:
        tensor: The name or pattern that was asked for.
        location: The file or URL.
        suggestion: A similar name that the file holds; None where no name is similar, or where
            too many are to compare them all.

    Example:
        >>> error = TensorNotFoundError("wte.wieght", "gpt2.safetensors", ["wte.weight"])
        >>> str(error)
        "gpt2.safetensors: no tensor 'wte.wieght'. Did you mean 'wte.weight'?"
    """

    def __init__(self, tensor: str, location: str, names: Iterable[str] = ()) -> None:
        super().__init__(tensor)
        self.tensor = tensor
        self.location = location
        self.suggestion = _closest(tensor, list(names))

    # KeyError's own __str__ would show the repr of the first argument.
    def __str__(self) -> str:
        hint = f". Did you mean {self.suggestion!r}?" if self.suggestion is not None else ""
        return f"{self.location}: no tensor {self.tensor!r}{hint}"


def _closest(wanted: str, names: list[str]) -> str | None:
    """The most similar name, if any is similar."""
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


class SliceError(SafetensorError, IndexError):
    """An index does not fit the tensor it is applied to.

    Example:
        >>> raise SliceError("index 7 is out of bounds for axis 0 of size 4")
        Traceback (most recent call last):
        safetensors_core.errors.SliceError: index 7 is out of bounds for axis 0 of size 4
    """


class InvalidInputError(SafetensorError, ValueError):
    """An argument cannot be used: a name, a metadata value, a tensor, an option.

    Example:
        >>> raise InvalidInputError("alignment 7 is not a power of two")
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: alignment 7 is not a power of two
    """


class SharedMemoryError(InvalidInputError, RuntimeError):
    """Tensors overlap in memory, which the format cannot express.

    Attributes:
        groups: Names that share memory, one sequence per overlapping region.

    Example:
        >>> SharedMemoryError([["a", "b"]], "save one of each group").groups
        [['a', 'b']]
    """

    def __init__(self, groups: Sequence[Sequence[str]], remedy: str) -> None:
        shown = ["{" + _listed([repr(name) for name in group]) + "}" for group in groups]
        super().__init__(
            f"these tensors share memory, which would be saved twice and loaded apart: "
            f"{_listed(shown)}. {remedy}"
        )
        self.groups = groups


class ClosedFileError(SafetensorError, ValueError):
    """An operation on a file that was closed.

    Example:
        >>> raise ClosedFileError("model.safetensors is closed")
        Traceback (most recent call last):
        safetensors_core.errors.ClosedFileError: model.safetensors is closed
    """


class StateDictError(SafetensorError, RuntimeError):
    """A file and a model, or another set of named tensors, do not match.

    Attributes:
        missing: Names of the model that the file lacks.
        unexpected: Names of the file that the model lacks.
        mismatched: Names whose shapes differ, with the file's shape and the model's.

    Example:
        >>> print(StateDictError("a.safetensors", ["bias"], [], {}))
        a.safetensors does not match the model: missing 'bias'
    """

    def __init__(
        self,
        location: str,
        missing: list[str],
        unexpected: list[str],
        mismatched: Mapping[str, tuple[list[int], list[int]]],
    ) -> None:
        parts = []
        if missing:
            parts.append(f"missing {_listed([repr(name) for name in missing])}")
        if unexpected:
            parts.append(f"unexpected {_listed([repr(name) for name in unexpected])}")
        if mismatched:
            shapes = [f"{n!r} ({a} in the file, {b})" for n, (a, b) in mismatched.items()]
            parts.append(f"other shapes: {_listed(shapes)}")
        super().__init__(f"{location} does not match the model: {'; '.join(parts)}")
        self.missing = missing
        self.unexpected = unexpected
        self.mismatched = mismatched


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - 10} more" if len(parts) > 10 else ""
    return ", ".join(parts[:10]) + more


class PluginError(SafetensorError):
    """A plugin is installed but cannot be used.

    It is broken, duplicate or disabled, it was written for a version of the contract that is too
    new or too old, or what its distribution requires is not installed.

    Example:
        >>> raise PluginError("plugin 'acme' of acme-st 1.0 is disabled")
        Traceback (most recent call last):
        safetensors_core.errors.PluginError: plugin 'acme' of acme-st 1.0 is disabled
    """


class FrameworkNotFoundError(PluginError):
    """No installed plugin answers to a framework name or a tensor's type.

    Example:
        >>> raise FrameworkNotFoundError("framework 'jax' is not installed (found: numpy)")
        Traceback (most recent call last):
        safetensors_core.errors.FrameworkNotFoundError: framework 'jax' is not installed ...
    """
