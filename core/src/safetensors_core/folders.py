"""Folders that are made for files to come."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib

from safetensors_core.parts import sync

__all__ = ["make_folders", "short_name"]


def make_folders(path: str, made: list[str], *, fsync: bool) -> None:
    """Make a folder, and those above it that are missing.

    Args:
        path: Path of the folder.
        made: Gets the folders that are made, as soon as each is, the outermost first.
        fsync: Whether to wait until they are on disk.

    Raises:
        OSError: The file system refuses, or the path is empty.

    Example:
        >>> made = []
        >>> make_folders(str(tmp_path / "a" / "b"), made, fsync=True)
        >>> [os.path.basename(folder) for folder in made]
        ['a', 'b']
    """
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    missing = []
    folder = os.path.abspath(path)
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # somebody else has made it meanwhile
            os.mkdir(folder)
            made.append(folder)
        if fsync:
            _sync_folder(os.path.dirname(folder))


def short_name(name: str) -> str:
    """A name short enough to be extended, and different for different names.

    Args:
        name: The name of a file.

    Returns:
        The name itself where it has at most 40 characters.

    Example:
        >>> short_name("model.safetensors"), len(short_name("m" * 250))
        ('model.safetensors', 39)
    """
    return name if len(name) <= 40 else f"{name[:30]}~{zlib.crc32(os.fsencode(name)):08x}"


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)
