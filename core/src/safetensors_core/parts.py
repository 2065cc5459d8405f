"""Temporary files beside what they will replace."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
from collections.abc import Iterator

from safetensors_core.errors import InvalidInputError
from safetensors_core.sources.file import for_one_call, remaining
from safetensors_core.sources.local import is_network_file

__all__ = [
    "PART_SUFFIX",
    "SHARED_PART",
    "PartFile",
    "naming",
    "part_prefix",
    "stat_target",
    "sync",
    "take_over",
]

#: How the names of temporary files end.
PART_SUFFIX = ".safetensors-part"
#: The name of a part that stands for all of one save.
SHARED_PART = "checkpoint"


class PartFile:
    """A temporary file beside its target, ``.NAME.TOKEN.safetensors-part``.

    It is locked while it is written, so that what a killed process left behind can be told from
    what another one is writing. Several parts of one save share a token: then the lock of one,
    whose name is ``checkpoint``, stands for all, and the others need no open descriptor once
    they are written.

    Args:
        folder: The folder of the target.
        name: Name of the target there; ``checkpoint`` for the part whose lock stands for all.
        private: Whether only its owner may read it.
        token: The token of a part that is locked already; None to make and to lock one.

    Raises:
        OSError: The file system refuses.

    Example:
        >>> part = PartFile(str(tmp_path), "a.bin")
        >>> part.write([memoryview(b"abc")])
        >>> part.rename(str(tmp_path / "a.bin"))
        >>> part.release()
        >>> (tmp_path / "a.bin").read_bytes()
        b'abc'
    """

    def __init__(
        self,
        folder: str,
        name: str = SHARED_PART,
        *,
        private: bool = False,
        token: str | None = None,
    ) -> None:
        self.path = ""
        self.fd = -1
        self.token = token or ""
        self._position = 0
        try:
            self._create(os.path.join(folder, part_prefix(name)), 0o600 if private else 0o666)
        except BaseException:
            self.release()
            raise

    def _create(self, prefix: str, mode: int) -> None:
        shared = bool(self.token)
        while True:
            if not shared:
                self.token = secrets.token_hex(8)
            # Noted before it is made: an interruption may come as soon as it is.
            self.path = part = f"{prefix}{self.token}{PART_SUFFIX}"
            self.fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            # Between its creation and its lock, another save may take the file for a leftover:
            # it has removed the file, or it holds the lock and is about to.
            if shared or (self._lock() and os.path.lexists(part)):
                return
            self.release()

    def _lock(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # On a file system without locks, nobody can take this one for a leftover either.
            pass
        return True

    def reserve(self, nbytes: int) -> None:
        """Allocate blocks at once: writing is then faster, and a full disk shows early.

        Args:
            nbytes: Size that the file will have.

        Raises:
            OSError: The file system refuses.

        Example:
            >>> part = PartFile(str(tmp_path), "a.bin")
            >>> part.reserve(4096)
            >>> part.release()
        """
        # The C library would emulate it there, with one write per block.
        if not hasattr(os, "posix_fallocate") or is_network_file(self.fd):
            return
        try:
            os.posix_fallocate(self.fd, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise

    def write(self, views: list[memoryview]) -> None:
        """Append buffers, also where the system takes fewer bytes at a time.

        Args:
            views: Buffers of bytes.

        Raises:
            OSError: The file system refuses.

        Example:
            >>> part = PartFile(str(tmp_path), "a.bin")
            >>> part.write([memoryview(b"ab"), memoryview(b"c")])
            >>> part.release()
        """
        while views:
            count = os.pwritev(self.fd, for_one_call(views), self._position)
            if not count:
                raise OSError(errno.EIO, "the system wrote no bytes")
            self._position += count
            views = remaining(views, count)

    def settle(self, existing: os.stat_result | None, *, fsync: bool) -> None:
        """Make the content final: after this, only the name is missing.

        Args:
            existing: The file that this one will replace, whose owner and mode it takes over.
            fsync: Whether to wait until the content is on disk.

        Raises:
            OSError: The file system refuses.

        Example:
            >>> part = PartFile(str(tmp_path), "a.bin")
            >>> part.settle(None, fsync=True)
            >>> part.release()
        """
        if existing is not None:
            take_over(self.fd, existing)
        if fsync:
            sync(self.fd)
        # A network file system may report failed writes only on close, which must come before
        # the rename; the lock belongs to the open file and outlives the duplicate.
        os.close(os.dup(self.fd))

    def rename(self, target: str) -> None:
        """Take the place of a target.

        Args:
            target: Its path, in the same folder.

        Raises:
            OSError: The file system refuses; the target stays as it is.

        Example:
            >>> part = PartFile(str(tmp_path), "a.bin")
            >>> part.rename(str(tmp_path / "a.bin"))
            >>> part.release()
        """
        os.rename(self.path, target)
        self.path = ""

    @property
    def renamed(self) -> bool:
        """Whether the file has taken the place of its target, as the file system sees it.

        Example:
            >>> part = PartFile(str(tmp_path), "a.bin")
            >>> part.renamed
            False
            >>> part.release()
        """
        # An interruption may come between the call of the system and what is noted of it.
        return not self.path or not os.path.lexists(self.path)

    def close(self) -> None:
        """Let go of the open file; it stays under its temporary name.

        Example:
            >>> part = PartFile(str(tmp_path), "a.bin")
            >>> part.close()
            >>> part.release()
        """
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def release(self) -> None:
        """Remove the temporary file unless it has become the target, and let go of it.

        Example:
            >>> PartFile(str(tmp_path), "a.bin").release()
            >>> os.listdir(tmp_path)
            []
        """
        path, self.path = self.path, ""
        try:
            if path:
                _unlink(path)
        except BaseException:  # an interruption, perhaps before it was removed
            _unlink(path)
            raise
        finally:
            # The lock ends here: only now, because an unlocked part counts as a leftover.
            with contextlib.suppress(OSError):
                self.close()


def part_prefix(name: str) -> str:
    """How the names of the temporary files of a target begin.

    Args:
        name: Name of the target.

    Returns:
        The beginning, short enough for what follows.

    Example:
        >>> part_prefix("a.bin")
        '.a.bin.'
    """
    return f".{name[:50]}."


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def stat_target(target: str, path: str) -> os.stat_result | None:
    """What is known of a file that shall be replaced.

    Args:
        target: Its path.
        path: The path as errors show it.

    Returns:
        None where there is no such file.

    Raises:
        OSError: It is a folder or read-only, or the file system refuses.
        InvalidInputError: It is a device, a pipe or a socket.

    Example:
        >>> stat_target(str(tmp_path / "new.bin"), "new.bin") is None
        True
    """
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


def take_over(fd: int, existing: os.stat_result) -> None:
    """Give a new file the owner and the mode of another one.

    Args:
        fd: Its descriptor.
        existing: What is known of the other one.

    Raises:
        OSError: The file system refuses the mode.

    Example:
        >>> new, old = tmp_path / "new", tmp_path / "old"
        >>> old.touch(0o600)
        >>> with open(new, "wb") as file:
        ...     take_over(file.fileno(), old.stat())
        >>> oct(new.stat().st_mode)
        '0o100600'
    """
    own = os.fstat(fd)
    mode = stat.S_IMODE(existing.st_mode) & 0o777
    if own.st_gid != existing.st_gid:
        try:
            os.fchown(fd, -1, existing.st_gid)
        except PermissionError:
            # What the old group was allowed to do is not for the new one.
            mode &= ~0o070 | (mode & 0o007) << 3
    if own.st_uid != existing.st_uid:
        with contextlib.suppress(PermissionError):
            os.fchown(fd, existing.st_uid, -1)
    # Some file systems have one mode for all files and refuse to set any.
    if stat.S_IMODE(own.st_mode) != mode:
        os.fchmod(fd, mode)


def sync(fd: int) -> None:
    """Wait until a file or a folder is on disk.

    Args:
        fd: Its descriptor.

    Raises:
        OSError: It may not be on disk.

    Example:
        >>> with open(tmp_path / "a.bin", "wb") as file:
        ...     sync(file.fileno())
    """
    if sys.platform == "darwin":  # there, fsync leaves the data in the drive's own cache
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass
    os.fsync(fd)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let errors of the file system inside a block name a path.

    Args:
        path: The path as the user knows it.

    Example:
        >>> with naming("model.safetensors"):
        ...     raise FileNotFoundError(2, "No such file", "/tmp/xyz")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file: 'model.safetensors'
    """
    try:
        yield
    except OSError as error:
        error.filename = path
        # Of a rename. None would be shown as a second path.
        del error.filename2
        raise
