"""What killed processes leave of their saves, told from what others are writing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator

from safetensors_core.parts import PART_SUFFIX, SHARED_PART
from safetensors_core.sources.local import is_network_file

__all__ = ["remove_leftovers", "shared_parts", "unlocked"]

_DAY = 24 * 60 * 60  # seconds
_PART = re.compile(r"\.(.{1,50})\.([0-9a-f]{16})" + re.escape(PART_SUFFIX), re.DOTALL)


def remove_leftovers(folder: str) -> None:
    """Remove what killed processes left behind: files of ours that nobody holds locked.

    On a network file system, where a lock may hold on one machine only, what has changed within
    a day stays.

    Args:
        folder: Where to look.

    Example:
        >>> _ = (tmp_path / ".a.0123456789abcdef.safetensors-part").write_bytes(b"left behind")
        >>> remove_leftovers(str(tmp_path))
        >>> os.listdir(tmp_path)
        []
    """
    found = _parts(folder)
    unchanged = _DAY if found and is_network_file(folder) else 0
    for path, name, token in found:
        shared = os.path.join(folder, f".{SHARED_PART}.{token}{PART_SUFFIX}")
        with contextlib.suppress(OSError):  # not ours to remove, or in use
            with contextlib.suppress(FileNotFoundError), unlocked(shared):
                pass
            with unlocked(path) as fd:
                status = os.fstat(fd)
                old = time.time() - status.st_mtime >= unchanged
                noted = name == SHARED_PART and status.st_size > 0  # what to remove besides
                if stat.S_ISREG(status.st_mode) and old and not noted:
                    os.unlink(path)


def shared_parts(folder: str) -> list[str]:
    """Parts whose lock stands, or stood, for all of one save.

    Args:
        folder: Where to look.

    Returns:
        Paths; none where the folder cannot be listed.

    Example:
        >>> from safetensors_core.parts import PartFile
        >>> part = PartFile(str(tmp_path))
        >>> shared_parts(str(tmp_path)) == [part.path]
        True
        >>> part.release()
    """
    return [path for path, name, _ in _parts(folder) if name == SHARED_PART]


def _parts(folder: str) -> list[tuple[str, str, str]]:
    """Paths of the parts in a folder, the names of what they become, and their tokens."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.path, _PART.fullmatch(entry.name)) for entry in entries]
    except PermissionError:  # one may write into a folder that one may not list
        return []
    return [(path, match[1], match[2]) for path, match in found if match]


@contextlib.contextmanager
def unlocked(path: str) -> Iterator[int]:
    """Keep a file locked that nobody else holds locked.

    Args:
        path: Path of the file.

    Yields:
        An open descriptor of it.

    Raises:
        OSError: It is locked, or it cannot be opened or is a link.

    Example:
        >>> from safetensors_core.parts import PartFile
        >>> part = PartFile(str(tmp_path))
        >>> with unlocked(part.path):
        ...     pass
        Traceback (most recent call last):
        BlockingIOError: ...
        >>> part.release()
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)
