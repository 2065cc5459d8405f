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
├── CheckpointError           the files of a checkpoint do not fit together; `reason` says why
│   └── NotASafetensorsRepoError  there are no safetensors files where a checkpoint should be
├── ConversionError           a foreign checkpoint cannot be converted
│   └── UnsafeCheckpointError     it would do harm: nothing of it was run or written
├── RemoteError               a remote file cannot be read or written   (also an OSError)
│   └── FileChangedError      it changed while it was read
└── PluginError               a plugin cannot be used
    └── FrameworkNotFoundError    no installed plugin answers
```

What the file system refuses stays an `OSError` with its `errno` and `filename`.

Every error survives pickle and copy with its message and attributes, and so reaches the parent of a
worker process as it was raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safetensors_core.reasons import CheckpointReason, Reason
from safetensors_core.suggestions import closest_name

__all__ = [
    "CheckpointError",
    "CheckpointReason",
    "CheckpointWarning",
    "ClosedFileError",
    "ConversionError",
    "FileChangedError",
    "FrameworkNotFoundError",
    "HeaderError",
    "InvalidInputError",
    "NotASafetensorsRepoError",
    "PluginError",
    "Reason",
    "RemoteError",
    "SafetensorError",
    "SharedMemoryError",
    "SliceError",
    "StateDictError",
    "TensorNotFoundError",
    "UnsafeCheckpointError",
    "UnsupportedDtypeError",
]


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
    error = kind.__new__(kind, *args)
    error.args = args  # which an OSError would take from its constructor
    return error


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
        self.suggestion = closest_name(tensor, list(names))

    # KeyError's own __str__ would show the repr of the first argument.
    def __str__(self) -> str:
        hint = f". Did you mean {self.suggestion!r}?" if self.suggestion is not None else ""
        return f"{self.location}: no tensor {self.tensor!r}{hint}"


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


class CheckpointError(SafetensorError):
    """The files of a checkpoint do not fit together, or its index is not valid.

    Attributes:
        reason: What is wrong, machine-readable.
        detail: What was found and what was expected, without the location.
        location: The index or the folder.
        names: The tensors or files that it is about.

    Example:
        >>> error = CheckpointError(
        ...     CheckpointReason.MISSING_SHARD, "no such shard", "model", ["b.safetensors"]
        ... )
        >>> str(error)
        "model: no such shard: 'b.safetensors'"
    """

    def __init__(
        self, reason: CheckpointReason, detail: str, location: str, names: Iterable[str] = ()
    ) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.location = location
        self.names = list(names)

    def __str__(self) -> str:
        named = f": {_listed([repr(name) for name in self.names])}" if self.names else ""
        return f"{self.location}: {self.detail}{named}"


class NotASafetensorsRepoError(CheckpointError):
    """There are no safetensors files where a checkpoint should be.

    Example:
        >>> print(NotASafetensorsRepoError("org/name", ["model.safetensors"]))
        org/name: there are no safetensors files here; looked for: 'model.safetensors'
    """

    def __init__(self, location: str, names: Iterable[str]) -> None:
        detail = "there are no safetensors files here; looked for"
        super().__init__(CheckpointReason.NO_CHECKPOINT, detail, location, names)


class CheckpointWarning(UserWarning):
    """Something is wrong with a checkpoint that does no harm to what is loaded from it.

    Example:
        >>> issubclass(CheckpointWarning, UserWarning)
        True
    """


class ConversionError(SafetensorError):
    """A foreign checkpoint cannot be converted.

    Attributes:
        detail: What was found, and what to do.
        location: The file or folder.

    Example:
        >>> print(ConversionError("this is no checkpoint that an installed plugin reads", "a.bin"))
        a.bin: this is no checkpoint that an installed plugin reads
    """

    def __init__(self, detail: str, location: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.location = location

    def __str__(self) -> str:
        return f"{self.location}: {self.detail}"


class UnsafeCheckpointError(ConversionError):
    """A foreign checkpoint asks for what weights do not need. Nothing of it was run or written.

    Example:
        >>> print(UnsafeCheckpointError("its pickle asks for 'os.system'", "a.bin"))
        a.bin: its pickle asks for 'os.system'
    """


class RemoteError(SafetensorError, OSError):
    """A remote file cannot be read or written.

    What says the same of a local file has its class: FileNotFoundError, PermissionError.

    Attributes:
        detail: What happened.
        location: The URL.
        status: What the server answered, for HTTP; None where it did not answer.

    Example:
        >>> print(RemoteError("the server ignores ranges", "https://example.org/a", status=200))
        https://example.org/a: the server ignores ranges (HTTP status 200)
    """

    def __init__(self, detail: str, location: str, *, status: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.location = location
        self.status = status

    def __str__(self) -> str:
        answered = f" (HTTP status {self.status})" if self.status is not None else ""
        return f"{self.location}: {self.detail}{answered}"


class FileChangedError(RemoteError):
    """A remote file changed while it was read, so that its parts do not belong together.

    Example:
        >>> print(FileChangedError("its ETag changed", "https://example.org/a"))
        https://example.org/a: its ETag changed
    """


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
