"""Replacing a file whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from safetensors_core.leftovers import remove_leftovers
from safetensors_core.parts import PartFile, naming, stat_target, sync

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReplacementFile"]


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
        ...     file.write([memoryview(b"abc")])
        >>> (tmp_path / "a.bin").read_bytes()
        b'abc'
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool) -> None:
        self.path = os.fsdecode(path)
        self._fsync = fsync
        self._folder_fd = -1
        self._part: PartFile | None = None

    def __enter__(self) -> Self:
        with self.naming():
            if self.path.endswith(os.sep):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not self.path:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._target = os.path.realpath(self.path)
            self._existing = stat_target(self._target, self.path)
            folder, name = os.path.split(self._target)
            # Opened first: a folder that cannot be synced is no reason to fail at the end.
            if self._fsync:
                self._folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remove_leftovers(folder)
                # A target that only its owner may read is not to be readable under another name.
                self._part = PartFile(folder, name, private=self._existing is not None)
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

    @property
    def part(self) -> PartFile:
        """The temporary file, while the block runs.

        Example:
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file:
            ...     _ = os.write(file.part.fd, b"abc")
        """
        assert self._part is not None
        return self._part

    def naming(self) -> AbstractContextManager[None]:
        """Let errors of the file system inside a block name the path that was given.

        Example:
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file, file.naming():
            ...     file.write([memoryview(b"abc")])
        """
        return naming(self.path)

    def reserve(self, nbytes: int) -> None:
        """Allocate blocks at once: writing is then faster, and a full disk shows early.

        Args:
            nbytes: Size that the file will have.

        Raises:
            OSError: The file system refuses.

        Example:
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file:
            ...     file.reserve(3)
        """
        self.part.reserve(nbytes)

    def write(self, views: list[memoryview]) -> None:
        """Append buffers, also where the system takes fewer bytes at a time.

        Args:
            views: Buffers of bytes.

        Raises:
            OSError: The file system refuses.

        Example:
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file:
            ...     file.write([memoryview(b"ab"), memoryview(b"c")])
        """
        self.part.write(views)

    def _commit(self) -> None:
        self.part.settle(self._existing, fsync=self._fsync)
        self.part.rename(self._target)
        if self._fsync:
            sync(self._folder_fd)

    def _release(self) -> None:
        if self._part is not None:
            self._part.release()
            self._part = None
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1
