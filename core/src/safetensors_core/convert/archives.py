"""Zip archives that foreign checkpoints are made of, checked before anything is read from them."""

from __future__ import annotations

import os
import re
import stat
import zipfile

from safetensors_core.errors import ConversionError, UnsafeCheckpointError

__all__ = ["MAX_EXPANSION", "open_archive"]

#: An archive whose entries are so many times as large as itself is refused if they also take
#: more than a GiB. Weights hardly shrink; deflate reaches 1,032 on zeros.
MAX_EXPANSION = 100

_ALWAYS_ALLOWED = 2**30  # bytes
_DRIVE = re.compile(r"^[A-Za-z]:")
_ENCRYPTED = 0x1


def open_archive(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    """Open a zip archive, and check all that its directory says.

    Args:
        path: The file.

    Returns:
        The archive; the caller closes it. Nothing is ever extracted to the disk.

    Raises:
        UnsafeCheckpointError: A name is absolute or leaves the archive, an entry is a symbolic
            link, a name occurs twice, entries overlap, or they expand without measure.
        ConversionError: It is no zip archive, is damaged or encrypted.
        OSError: It cannot be read.

    Example:
        >>> with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        ...     archive.writestr("../w.npy", b"")
        >>> open_archive(tmp_path / "a.npz")
        Traceback (most recent call last):
        safetensors_core.errors.UnsafeCheckpointError: ...a.npz: the archive holds '../w.npy', ...
    """
    location = os.fsdecode(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ConversionError(f"this is not a whole zip archive: {error}", location) from None
    try:
        _check(archive, location)
    except BaseException:
        archive.close()
        raise
    return archive


def _check(archive: zipfile.ZipFile, location: str) -> None:
    entries = archive.infolist()
    names: set[str] = set()
    for entry in entries:
        shown = repr(entry.filename)
        # zipfile itself ends a name at a NUL and turns the system's own separators.
        parts = re.split(r"[/\\]", entry.orig_filename.rstrip("/"))
        if "" in parts or ".." in parts or _DRIVE.match(parts[0]) or "\0" in entry.orig_filename:
            raise UnsafeCheckpointError(
                f"the archive holds {entry.orig_filename!r}, which leaves its folder", location
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UnsafeCheckpointError(f"in the archive, {shown} is a symbolic link", location)
        if entry.filename in names:
            raise UnsafeCheckpointError(f"the archive holds {shown} twice", location)
        names.add(entry.filename)
        if entry.flag_bits & _ENCRYPTED:
            raise ConversionError(f"in the archive, {shown} is encrypted", location)
    _check_sizes(entries, os.stat(location).st_size, location)


def _check_sizes(entries: list[zipfile.ZipInfo], size: int, location: str) -> None:
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise UnsafeCheckpointError(
                f"in the archive, {entry.filename!r} overlaps another entry", location
            )
        end = entry.header_offset + entry.compress_size
    expanded = sum(entry.file_size for entry in entries)
    if end > size or expanded > max(MAX_EXPANSION * size, _ALWAYS_ALLOWED):
        raise UnsafeCheckpointError(
            f"the archive of {size:,} bytes claims to hold {expanded:,}: a zip bomb", location
        )
