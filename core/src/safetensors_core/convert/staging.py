"""Finished files of a conversion that is under way, so that it can go on after an interruption."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from types import TracebackType
from typing import TYPE_CHECKING

from safetensors_core.errors import ConversionError, SafetensorError
from safetensors_core.folders import make_folders, short_name
from safetensors_core.parts import naming, sync

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ENDING", "Staging"]

#: How the names of the folders end in which finished files wait.
ENDING = ".converting"

_NOTE = "conversion.json"
_PART = ".part"


class Staging:
    """A hidden folder beside the place of the result, for one conversion at a time.

    A file that is whole gets its name; until then it has another. What an interruption or a full
    disk leaves is found by the next conversion that is the same, and removed by one that is not.
    A source that cannot be converted leaves nothing. Only the owner may look into the folder: the
    result may take the place of a private file.

    Args:
        folder: Where the result will be; made if it is missing.
        name: Name of the result there.
        identity: A text that is equal for the same conversion of the same files.

    Raises:
        ConversionError: Another process is converting to the same place, or something else has
            the name of the folder.
        OSError: The file system refuses.

    Example:
        >>> with Staging(str(tmp_path), "m.safetensors", "a.bin") as staging:
        ...     with open(staging.part("m.safetensors"), "w") as file:
        ...         _ = file.write("abc")
        ...     staging.finish("m.safetensors")
        ...     staging.holds("m.safetensors")
        True
        >>> os.listdir(tmp_path)
        ['.m.safetensors.converting']
    """

    def __init__(self, folder: str, name: str, identity: str) -> None:
        self._target = folder
        self.folder = os.path.join(folder, f".{short_name(name)}{ENDING}")
        self._identity = identity
        self._made: list[str] = []
        self._fd = -1
        self._published = False

    def __enter__(self) -> Self:
        try:
            with naming(self._target):
                make_folders(self._target, self._made, fsync=True)
                self._lock()
                self._prepare()
        except BaseException:
            self._end(keep=False)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What is wrong with the source stays wrong; a full disk or an interruption does not.
        final = isinstance(error, SafetensorError)
        self._end(keep=not self._published and not final and bool(self.finished()))

    def part(self, name: str) -> str:
        """The path at which a file is written.

        Example:
            >>> Staging("out", "m", "").part("m.safetensors")
            'out/.m.converting/m.safetensors.part'
        """
        return os.path.join(self.folder, name + _PART)

    def path(self, name: str) -> str:
        """The path of a file that is whole.

        Example:
            >>> Staging("out", "m", "").path("m.safetensors")
            'out/.m.converting/m.safetensors'
        """
        return os.path.join(self.folder, name)

    def holds(self, name: str) -> bool:
        """Whether a file is whole.

        Example:
            >>> Staging("out", "m", "").holds("m.safetensors")
            False
        """
        return os.path.isfile(self.path(name))

    def finish(self, name: str) -> None:
        """Note that a file is whole.

        Example:
            >>> with Staging(str(tmp_path), "m", "a.bin") as staging:
            ...     with open(staging.part("m"), "w") as file:
            ...         _ = file.write("abc")
            ...     staging.finish("m")
        """
        os.rename(self.part(name), self.path(name))
        sync(self._fd)

    def finished(self) -> list[str]:
        """Names of the files that are whole.

        Example:
            >>> Staging("out", "m", "").finished()
            []
        """
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name != _NOTE and not name.endswith(_PART))

    def publish(self) -> None:
        """Note that all files have found their places, so that the folder is needed no more.

        Example:
            >>> with Staging(str(tmp_path), "m", "a.bin") as staging:
            ...     staging.publish()
            >>> os.listdir(tmp_path)
            []
        """
        self._published = True

    def _lock(self) -> None:
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder, 0o700)
            try:
                fd = self._open()
            except FileNotFoundError:
                continue  # another process has just removed it
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise ConversionError(
                    "another process is converting to this place", self._target
                ) from None
            except OSError:
                pass  # on a file system without locks, two at once are not kept apart
            # The last holder of the lock may have removed the folder before it let go.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.lstat(self.folder)):
                    self._fd = fd
                    return
            os.close(fd)

    def _open(self) -> int:
        # All that is in it may be removed, and a link may lead anywhere.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self.folder, flags)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise ConversionError(
                "finished files would wait in a folder of this name; remove what has it",
                self.folder,
            ) from None

    def _prepare(self) -> None:
        note = os.path.join(self.folder, _NOTE)
        try:
            with open(note, encoding="utf-8") as file:
                same = file.read() == self._identity
        except (FileNotFoundError, UnicodeDecodeError):
            same = False
        for name in os.listdir(self.folder):
            if not same or name.endswith(_PART):
                os.unlink(os.path.join(self.folder, name))
        if not same:
            with open(note, "w", encoding="utf-8") as file:
                file.write(self._identity)

    def _end(self, *, keep: bool) -> None:
        if self._fd < 0:
            keep = True  # it belongs to another process
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # it is in use
                os.rmdir(folder)
