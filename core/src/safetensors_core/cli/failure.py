"""Errors on the command line: one line or one JSON object, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import sys
from typing import Any

import click

from safetensors_core.cli import output
from safetensors_core.cli.output import OutputError
from safetensors_core.cli.text import inert, without_surrogates
from safetensors_core.errors import (
    CheckpointError,
    CheckpointReason,
    HeaderError,
    InvalidInputError,
    PluginError,
    Reason,
    RemoteError,
    SafetensorError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)

__all__ = ["Failure", "ReportingCommand"]

_REMEDIES = {
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.ENAMETOOLONG: "Check the path",
    errno.ELOOP: "Check where the symbolic link leads",
    errno.EACCES: "Check the permissions",
    errno.EPERM: "Check the permissions",
    errno.EISDIR: "Name a file in it",
    errno.EBADF: "Check where the output goes",
    errno.EIO: "Check the disk",
    errno.EMFILE: "Let the process open more files, as `ulimit -n` says",
    errno.ENOMEM: "Try on a machine with more memory",
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
}
_WORDS = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
# Their messages say themselves what to do.
_WITH_REMEDY = frozenset(
    {
        Reason.GIT_LFS_POINTER,
        Reason.HTML_PAGE,
        Reason.ZIP_ARCHIVE,
        Reason.PICKLE,
        Reason.OTHER_FORMAT,
        Reason.HEADER_TOO_LARGE,
    }
)
_CHECKPOINT_REMEDIES = {
    CheckpointReason.NO_CHECKPOINT: "Name a safetensors file, or a folder that holds one",
    CheckpointReason.INVALID_INDEX: "Name an index or a safetensors file, or download it again",
    CheckpointReason.OUTSIDE_FOLDER: "Check where the checkpoint comes from",
    CheckpointReason.MISSING_SHARD: "Download or copy the files again",
    CheckpointReason.MISSING_TENSOR: "Download or copy all files of one version again",
    CheckpointReason.DUPLICATE_TENSOR: "Download or copy all files of one version again",
}
_INCOMPLETE = frozenset({Reason.EMPTY, Reason.TOO_SHORT, Reason.HEADER_TRUNCATED, Reason.TRUNCATED})


class Failure(click.ClickException):
    """An error that ends a command.

    Attributes:
        message: One line: the path, the cause and the remedy.
        error: Name of the kind of error.
        path: The file that it is about, where it is about one.
        reason: The broken rule of the format or of a checkpoint, where that is the cause.
        exit_code: The exit status.

    Example:
        >>> error = HeaderError(Reason.EMPTY, "the file is empty", location="a.safetensors")
        >>> Failure.of(error).message
        'a.safetensors: the file is empty. Download or copy it again'
    """

    exit_code = 2

    def __init__(
        self, message: str, *, error: str, path: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.error = error
        self.path = path
        self.reason = reason

    @classmethod
    def of(
        cls, error: BaseException, path: str | None = None, remedy: str | None = None
    ) -> Failure:
        """Describe an error.

        Args:
            error: What was raised.
            path: The file that the command was given, if any.
            remedy: What to do besides what the error itself says.

        Returns:
            The failure to report.

        Example:
            >>> Failure.of(FileNotFoundError(2, "No such file or directory", "a.bin")).message
            'a.bin: No such file or directory. Check the path'
        """
        if isinstance(error, Failure):
            return error
        if isinstance(error, (KeyboardInterrupt, click.Abort)):
            message = _sentence("interrupted", remedy)
            return _Interruption(message, error="Interrupted", path=path)
        # Every wrong call is one kind of error to a program, however click tells them apart.
        kind = "UsageError" if isinstance(error, click.ClickException) else type(error).__name__
        if isinstance(error, OutputError) and error.errno == errno.EPIPE:
            return _Unread("nobody reads the output", error=kind)
        message = _message(error)
        path = _shown(_path(error, _shown(path)))
        # A short path may occur in any message by chance.
        if path is not None and not message.startswith(path) and repr(path) not in message:
            message = f"{path}: {message}"
        rule = error.reason.value if isinstance(error, (HeaderError, CheckpointError)) else None
        return cls(_sentence(message, remedy), error=kind, path=path, reason=rule)

    def report(self, *, as_json: bool) -> None:
        """Tell the user: an object on standard output, or else one line on standard error.

        Args:
            as_json: Whether the user asked for JSON.
        """
        if as_json and self.error != OutputError.__name__:
            # If standard output fails now, there is still the line on standard error.
            with contextlib.suppress(OutputError):
                output.write_json(self._document())
                return
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"safetensors-core: {inert(self.message)}\n")
                sys.stderr.flush()

    def _document(self) -> dict[str, str | None]:
        return {
            "error": self.error,
            "message": without_surrogates(self.message),
            "path": None if self.path is None else without_surrogates(self.path),
            "reason": self.reason,
        }


class _Interruption(Failure):
    """The user stopped the command."""

    exit_code = 128 + 2  # what a shell reports for a program that SIGINT ended


class _Unread(Failure):
    """The reader of a pipe has seen enough, which is nothing to talk about."""

    exit_code = 128 + 13  # what a shell reports for a program that SIGPIPE ended

    def report(self, *, as_json: bool) -> None:
        pass


class ReportingCommand(click.Command):
    """A command whose expected errors become a `Failure` that names the file it was given.

    Example:
        >>> @click.command(cls=ReportingCommand)
        ... @click.argument("file")
        ... def show(file):
        ...     raise MemoryError
        >>> show.main(["a.safetensors"], standalone_mode=False)
        Traceback (most recent call last):
        safetensors_core.cli.failure.Failure: a.safetensors: there is not enough memory. Try ...
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (SafetensorError, OSError, MemoryError, KeyboardInterrupt) as error:
            given = ctx.params.get("file") or ctx.params.get("location")
            raise Failure.of(error, given) from error


@functools.singledispatch
def _message(error: BaseException) -> str:
    """Cause and remedy of an error, in words that fit the command line."""
    return str(error)


@_message.register(HeaderError)
def _(error: HeaderError) -> str:
    message = _with_options(str(error))
    if error.reason in _WITH_REMEDY:
        return message
    if error.reason in _INCOMPLETE:
        return _sentence(message, "Download or copy it again")
    return _sentence(message, "Write it again with a program that keeps to the format")


@_message.register(UnsupportedDtypeError)
def _(error: UnsupportedDtypeError) -> str:
    return str(error) if error.remedy else _sentence(str(error), "Try another --framework")


@_message.register(CheckpointError)
def _(error: CheckpointError) -> str:
    return _sentence(str(error), _CHECKPOINT_REMEDIES.get(error.reason))


@_message.register(UnsafeCheckpointError)
def _(error: UnsafeCheckpointError) -> str:
    return _sentence(str(error), "Get the weights in another format, or from a source you trust")


@_message.register(RemoteError)
def _(error: RemoteError) -> str:
    if error.status is not None and error.status < 300:  # the server would do the same again
        return str(error)
    return _sentence(str(error), "Try again, or check the URL and the network")


@_message.register(InvalidInputError)
def _(error: InvalidInputError) -> str:
    message = str(error)
    # Most of these say what was expected.
    is_about_file = message.endswith("is not a regular file") or "no installed plugin" in message
    return _sentence(message, "Name a safetensors file" if is_about_file else None)


@_message.register(OSError)
def _(error: OSError) -> str:
    message = _with_options(error.strerror or str(error))
    if ". " in message:  # it says itself what to do
        return message
    remedy = _REMEDIES.get(error.errno or 0)
    if isinstance(error, FileNotFoundError):
        remedy = _remedy_of_absence(_path(error, None) or "")
    return _sentence(message, remedy)


@_message.register(MemoryError)
def _(_error: MemoryError) -> str:
    return "there is not enough memory. Try on a machine with more"


@_message.register(click.ClickException)
def _(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    remedy = None if context is None else f"Try: {context.command_path} --help"
    return _sentence(error.format_message(), remedy)


def _with_options(message: str) -> str:
    """What the library says of its parameters, as it is said of options."""
    message = message.replace("pass max_header=", "pass --max-header ")
    message = message.replace("pass overwrite=True", "pass --overwrite")
    return re.sub(
        r"pass storage_options={'(\w+)': \.\.\.}", r"pass --storage-option \1=...", message
    )


def _path(error: BaseException, given: str | None) -> str | None:
    """The file that an error is about: the one that it names, or else the one that was given."""
    # These are about what is installed and about the call.
    if isinstance(error, (PluginError, click.ClickException)):
        return None
    # These are about an option unless they name the file.
    if isinstance(error, InvalidInputError) and str(given) not in str(error):
        return None
    named = getattr(error, "location", None) or getattr(error, "filename", None)
    return os.fsdecode(named) if isinstance(named, (str, bytes)) else given


def _remedy_of_absence(location: str) -> str:
    """What to do about a file that is not there."""
    is_file = location.endswith((".safetensors", ".json"))
    if "://" in location:
        may_be_folder = location.startswith("http") and not is_file and location[-1] != "/"
        hint = "; that of a folder on a web server ends with a slash" if may_be_folder else ""
        return f"Check the URL{hint}"
    if (
        _WORDS.fullmatch(location)
        and not is_file
        and not os.path.lexists(os.path.dirname(location))
    ):
        return f"Check the path; a repository of the Hugging Face Hub is hf://{location}"
    return "Check the path"


def _shown(path: str | None) -> str | None:
    """A path, or a URL without what may give access."""
    if path is None or "://" not in path:
        return path
    from safetensors_core.sources.urls import shown

    return shown(path)


def _sentence(message: str, remedy: str | None) -> str:
    if not remedy:
        return message
    return f"{message} {remedy}" if message.endswith((".", "?", "!")) else f"{message}. {remedy}"
