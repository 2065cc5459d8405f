"""Opening local files: the storage that core brings itself."""

from __future__ import annotations

import errno
import functools
import os
import re

from safetensors_core.errors import InvalidInputError
from safetensors_core.hookspecs import hookimpl
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.file import FileSource
from safetensors_core.sources.mapped import MappedSource

__all__ = ["check_path", "is_network_file", "is_url", "safetensors_open_source", "without_scheme"]

_BACKENDS = {"mmap": MappedSource, "pread": FileSource}

# File systems on which a page fault is a round trip. Plain "fuse" and "fuse.NAME" are user-space
# file systems; "fuseblk" is a local disk (NTFS, exFAT).
_NETWORK = re.compile(
    r"9p|afs|beegfs|ceph|cifs|fuse(\..*)?|gfs2?|glusterfs|gpfs|lustre|nfs4?|ocfs2|orangefs|"
    r"pvfs2|smb2|smb3|smbfs|vboxsf|virtiofs|vmhgfs|wekafs"
)
_MOUNTS = "/proc/self/mountinfo"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@hookimpl(trylast=True)
def safetensors_open_source(location: str | os.PathLike[str], backend: str) -> ByteSource | None:
    """Open a local file with the backend asked for.

    Args:
        location: Path of the file.
        backend: ``"mmap"``, ``"pread"``, or ``"auto"`` for what suits its file system.

    Returns:
        The file; None for a URL, which other plugins may know.

    Raises:
        OSError: The file cannot be opened.
        InvalidInputError: The backend is unknown or the location is no regular file.

    Example:
        >>> safetensors_open_source("https://example.org/model.safetensors", "auto") is None
        True
    """
    location = without_scheme(location)
    if is_url(location):
        return None
    if backend == "auto":
        return _opened_as_suits(location)
    if backend not in list(_BACKENDS):  # compared, because not everything can be hashed
        raise InvalidInputError(
            f"backend {backend!r} is unknown: choose 'auto', {', '.join(map(repr, _BACKENDS))}"
        )
    return _BACKENDS[backend](location)


def _opened_as_suits(location: str | os.PathLike[str]) -> ByteSource:
    if is_network_file(location):
        return FileSource(location)
    try:
        return MappedSource(location)
    except OSError as error:
        if error.errno != errno.ENOMEM:  # a limit on address space may be less than the file
            raise
        return FileSource(location)


def check_path(path: object) -> None:
    """Refuse what cannot be the path of a file.

    Args:
        path: What a user gave.

    Raises:
        InvalidInputError: It is neither str nor os.PathLike, or holds a character that no file
            name can have.

    Example:
        >>> check_path(7)
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: expected a path as str or os.PathLike, got int
    """
    if not isinstance(path, (str, os.PathLike)):
        hint = ". For the bytes of a file, use load()" if isinstance(path, bytes) else ""
        raise InvalidInputError(
            f"expected a path as str or os.PathLike, got {type(path).__name__}{hint}"
        )
    text = os.fsdecode(path)
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise InvalidInputError(f"{text!a} holds a character that no file name can have")


def is_url(location: str | os.PathLike[str]) -> bool:
    """Whether a location is a URL rather than a local path.

    Args:
        location: What a user gave.

    Returns:
        True for a text that begins with a scheme and two slashes.

    Example:
        >>> is_url("s3://bucket/model.safetensors"), is_url("model.safetensors")
        (True, False)
    """
    return isinstance(location, str) and _URL.match(location) is not None


def without_scheme(location: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A location on this machine as a path.

    Args:
        location: What a user gave.

    Returns:
        The path of a ``file://`` URL; anything else as it is.

    Example:
        >>> without_scheme("file:///tmp/a.safetensors"), without_scheme("s3://bucket/a")
        ('/tmp/a.safetensors', 's3://bucket/a')
    """
    if isinstance(location, str) and is_url(location):
        scheme, _, path = location.partition("://")
        if scheme.lower() in {"file", "local"}:
            return path
    return location


def is_network_file(path: str | os.PathLike[str] | int) -> bool:
    """Whether a file lies on a network or user-space file system, where maps are slow.

    Args:
        path: The file, or an open descriptor of it.

    Returns:
        True if its file system is known to be one; False where the system does not tell.

    Example:
        >>> is_network_file("/proc/self/mountinfo")
        False
    """
    try:
        device = os.stat(path).st_dev
    except OSError:
        return False
    return _NETWORK.fullmatch(_filesystem(device)) is not None


@functools.lru_cache(maxsize=64)
def _filesystem(device: int) -> str:
    """Type of the file system of a device, from Linux's table of mounts; "" if unknown."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(_MOUNTS, encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields, _, kind = line.partition(" - ")
                if fields.split()[2] == number:
                    return kind.split()[0]
    except OSError:
        pass
    return ""
