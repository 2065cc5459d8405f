"""Replacing a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from safetensors_core.errors import InvalidInputError
from safetensors_core.sources.local import is_network_file

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReplacementFile"]

_SUFFIX = ".safetensors-part"
_DAY = 24 * 60 * 60  # seconds
_PART = re.compile(r"\..{1,50}\.[0-9a-f]{16}" + re.escape(_SUFFIX), re.DOTALL)


class ReplacementFile:
    """A temporary file that takes the place of a target when its block ends without an error.

    It lies beside the target as ``.NAME.TOKEN.safetensors-part`` and is locked while it is
    written, so that what a killed process left behind can be told from what another one is
    writing: the next save into the folder removes the former. On a network file system, where
    a lock may hold on one machine only, it removes what has not changed for a day. The target
    keeps its mode and, where the system allows, its owner; a symbolic link stays a link.

    Args:
        path: The target; it need not exist.
        fsync: Whether the block's end waits until file and folder are on disk.

    Raises:
        OSError: The file system refuses; `filename` is the path that was given.
        InvalidInputError: The target exists and is a device, a pipe or a socket, or no file can
            have such a name.

    Example:
        >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file:
        ...     _ = os.write(file.fd, b"abc")
        >>> (tmp_path / "a.bin").read_bytes()
        b'abc'
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool) -> None:
        self.path = os.fsdecode(path)
        self.fd = -1
        self._fsync = fsync
        self._folder_fd = -1
        self._part = ""

    def __enter__(self) -> Self:
        with self.naming():
            if self.path.endswith(os.sep):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not self.path:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._target = os.path.realpath(self.path)
            self._existing = _stat_target(self._target, self.path)
            folder, name = os.path.split(self._target)
            # Opened first: a folder that cannot be synced is no reason to fail at the end.
            if self._fsync:
                self._folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _remove_leftovers(folder)
                self._create(folder, name)
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                with self.naming():
                    self._commit()
        finally:
            self._release()

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Let errors of the file system inside a block name the path that was given.

        Example:
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file, file.naming():
            ...     _ = os.write(file.fd, b"abc")
        """
        try:
            yield
        except OSError as error:
            error.filename = self.path
            # Of a rename. None would be shown as a second path.
            del error.filename2
            raise

    def _create(self, folder: str, name: str) -> None:
        # A target that only its owner may read is not to be readable under another name.
        mode = 0o666 if self._existing is None else 0o600
        while True:
            part = os.path.join(folder, f".{name[:50]}.{secrets.token_hex(8)}{_SUFFIX}")
            self.fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            self._part = part
            # Between its creation and its lock, another save may take the file for a leftover:
            # it has removed the file, or it holds the lock and is about to.
            if self._lock() and os.path.lexists(part):
                return
            self._release_part()

    def _lock(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # On a file system without locks, nobody can take this one for a leftover either.
            pass
        return True

    def _commit(self) -> None:
        if self._existing is not None:
            self._take_over(self._existing)
        if self._fsync:
            _sync(self.fd)
        # A network file system may report failed writes only on close, which must come before
        # the rename; the lock belongs to the open file and outlives the duplicate.
        os.close(os.dup(self.fd))
        os.rename(self._part, self._target)
        self._part = ""
        if self._fsync:
            _sync(self._folder_fd)

    def _take_over(self, existing: os.stat_result) -> None:
        """Give the new file the owner and the mode of the one it replaces."""
        own = os.fstat(self.fd)
        mode = stat.S_IMODE(existing.st_mode) & 0o777
        if own.st_gid != existing.st_gid:
            try:
                os.fchown(self.fd, -1, existing.st_gid)
            except PermissionError:
                # What the old group was allowed to do is not for the new one.
                mode &= ~0o070 | (mode & 0o007) << 3
        if own.st_uid != existing.st_uid:
            with contextlib.suppress(PermissionError):
                os.fchown(self.fd, existing.st_uid, -1)
        # Some file systems have one mode for all files and refuse to set any.
        if stat.S_IMODE(own.st_mode) != mode:
            os.fchmod(self.fd, mode)

    def _release(self) -> None:
        self._release_part()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def _release_part(self) -> None:
        """Remove the temporary file unless it has become the target, and let go of it."""
        if self._part:
            with contextlib.suppress(OSError):
                os.unlink(self._part)
            self._part = ""
        # The lock ends here: only now, because an unlocked part counts as a leftover.
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = -1


def _stat_target(target: str, path: str) -> os.stat_result | None:
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInputError(f"{path} is not a regular file and cannot be replaced by one")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file is read-only", path)
    return status


def _remove_leftovers(folder: str) -> None:
    """Remove what killed processes left behind: files of ours that nobody holds locked."""
    try:
        with os.scandir(folder) as entries:
            parts = [entry.path for entry in entries if _PART.fullmatch(entry.name)]
    except PermissionError:  # one may write into a folder that one may not list
        return
    unchanged = _DAY if parts and is_network_file(folder) else 0
    for part in parts:
        with contextlib.suppress(OSError):  # not ours to remove, or in use
            fd = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(fd)
                if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime >= unchanged:
                    os.unlink(part)
            finally:
                os.close(fd)


def _sync(fd: int) -> None:
    if sys.platform == "darwin":  # there, fsync leaves the data in the drive's own cache
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass
    os.fsync(fd)
