"""Replacing the checkpoint in a local folder, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from safetensors_core.checkpoint.journal import note_files, remove_orphans
from safetensors_core.errors import CheckpointError
from safetensors_core.folders import make_folders, short_name
from safetensors_core.leftovers import remove_leftovers
from safetensors_core.parts import PART_SUFFIX, PartFile, naming, stat_target, sync, take_over
from safetensors_core.shards.index import INDEX_SUFFIX, ShardIndex, encode_index, parse_index

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LocalFolder"]

# A second name of an old file, while new ones take their places. An index may name it, so it
# ends as loaders expect it.
_ENDING = ".previous.safetensors"
_PREVIOUS = re.compile(r"\..{1,50}\.[0-9a-f]{16}" + re.escape(_ENDING), re.DOTALL)


class LocalFolder:
    """The files of a new checkpoint, which take the places of the old ones together.

    All are written under temporary names first. Then the old files whose names are needed get
    second names, and the old index is pointed at these: until the new index is in its place, the
    folder holds the old checkpoint, and from then on the new one. An error or an interruption
    undoes what was renamed. At last, what only the old checkpoint used is removed.

    Symbolic links in the folder are replaced, not followed.

    Args:
        folder: Path of the folder; made if it is missing.
        single: Name of the file where one is enough.
        index: Name of the index where one is not.
        fsync: Whether to wait until all is on disk.

    Raises:
        OSError: The file system refuses; `filename` is the path as it was given.

    Example:
        >>> folder = tmp_path / "model"
        >>> with LocalFolder(folder, "a.safetensors", "a.index.json", fsync=True) as target:
        ...     with target.new_file("a.safetensors") as file:
        ...         file.write([memoryview(b"abc")])
        ...     target.replace("a.safetensors")
        >>> os.listdir(folder)
        ['a.safetensors']
    """

    def __init__(
        self, folder: str | os.PathLike[str], single: str, index: str, *, fsync: bool
    ) -> None:
        self.path = os.fsdecode(folder)
        self._single = single
        self._index = index
        self._fsync = fsync
        self._fd = -1
        self._made: list[str] = []
        self._lock: PartFile | None = None
        self._parts: dict[str, PartFile] = {}
        self._second_names: dict[str, str] = {}
        self._old_index_part: PartFile | None = None
        self._replaced = False

    def __enter__(self) -> Self:
        try:
            with naming(self.path):
                make_folders(self.path, self._made, fsync=self._fsync)
                self._folder = os.path.realpath(self.path)
                self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with self._alone():
                    used = self._names(self._read_index(self._index))
                    remove_orphans(self._folder, self._index, used)
                remove_leftovers(self._folder)
                self._lock = PartFile(self._folder)
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
        self._release()

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[_LocalOutput]:
        """Write a file, which gets its name later.

        Args:
            name: Its name.

        Yields:
            What to hand its bytes to.

        Raises:
            OSError: The file system refuses, or a folder or a read-only file has the name.
            InvalidInputError: A device, a pipe or a socket has it.

        Example:
            >>> with LocalFolder(tmp_path, "a", "a.json", fsync=False) as target:
            ...     with target.new_file("a") as file:
            ...         file.reserve(10)
        """
        path = os.path.join(self.path, name)
        assert self._lock is not None
        with naming(path):
            existing = stat_target(self._at(name), path)
            private = existing is not None
            part = PartFile(self._folder, short_name(name), private=private, token=self._lock.token)
        self._parts[name] = part
        yield _LocalOutput(path, part)
        with naming(path):
            part.settle(existing, fsync=self._fsync)
            part.close()

    def adopt(self, name: str, path: str) -> None:
        """Take in a file that is written and on disk already; it gets its name later.

        Args:
            name: Its name in the folder.
            path: Where it is, on the same file system. It stays there too, where that has links.

        Example:
            >>> _ = (tmp_path / "written").write_bytes(b"abc")
            >>> with LocalFolder(tmp_path / "m", "a", "a.json", fsync=False) as target:
            ...     target.adopt("a", str(tmp_path / "written"))
            ...     target.replace("a")
        """
        with self.new_file(name):
            pass  # with the owner and the mode of the file whose place it takes
        part = self._parts[name]
        with naming(os.path.join(self.path, name)):
            with open(path, "rb") as file:
                take_over(file.fileno(), os.stat(part.path))
            os.unlink(part.path)
            try:
                os.link(path, part.path)
            except OSError:
                os.rename(path, part.path)

    def replace(self, last: str) -> None:
        """Let the files take their places, and remove those of the old checkpoint.

        Args:
            last: The file that is renamed last, and makes the checkpoint the new one.

        Raises:
            OSError: The file system refuses. The old checkpoint is still there, or the new one
                is there and not all of the old files could be removed.

        Example:
            >>> with LocalFolder(tmp_path, "a", "a.json", fsync=False) as target:
            ...     with target.new_file("a") as file:
            ...         file.write([memoryview(b"abc")])
            ...     target.replace("a")
            >>> os.listdir(tmp_path)
            ['a']
        """
        with naming(self.path), self._alone():
            names = list(self._parts)
            old = self._read_index(self._index)
            assert self._lock is not None
            noted = {*names, *self._names(old)}
            note_files(self._lock, self._index, noted, fsync=self._fsync)
            before = [name for name in names if name != last]
            try:
                self._keep_old(before, old)
                for name in before:
                    self._parts[name].rename(self._at(name))
                self._sync()
                self._parts[last].rename(self._at(last))
            finally:
                self._replaced = self._parts[last].renamed
                if not self._replaced:
                    self._undo()
            self._sync()
            self._remove_old(names, old)

    def _at(self, name: str) -> str:
        return os.path.join(self._folder, name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other saves into the folder from renaming files at the same time."""
        # On a file system without locks, two saves at once are not kept apart.
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _read_index(self, name: str) -> ShardIndex | None:
        """What an index in the folder says; None if there is none, or none that is valid."""
        path = self._at(name)
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as file:
            data = file.read()
        try:
            return parse_index(data, path)
        except CheckpointError:
            return None

    def _names(self, index: ShardIndex | None) -> set[str]:
        """What is in the folder of the files of an index, or of the one that needs none."""
        names = {self._single, *(index.weight_map.values() if index is not None else ())}
        return {name for name in names if os.sep not in name and os.path.lexists(self._at(name))}

    def _keep_old(self, names: list[str], old: ShardIndex | None) -> None:
        """Give second names to files whose names are needed, and let the old index use them."""
        assert self._lock is not None
        for name in names:
            if os.path.lexists(self._at(name)):
                self._second_names[name] = f".{short_name(name)}.{self._lock.token}{_ENDING}"
                self._add_second_name(name)
        if old is None or self._second_names.keys().isdisjoint(old.weight_map.values()):
            return
        moved = {
            tensor: self._second_names.get(file, file) for tensor, file in old.weight_map.items()
        }
        with open(self._at(self._index), "rb") as file:
            self._old_index_part = self._write_index("previous", file.read())
        index = encode_index(ShardIndex(moved, old.metadata))
        self._write_index("moved", index).rename(self._at(self._index))
        self._sync()

    def _write_index(self, name: str, data: bytes) -> PartFile:
        assert self._lock is not None
        part = PartFile(self._folder, name, private=True, token=self._lock.token)
        part.write([memoryview(data)])
        part.settle(os.stat(self._at(self._index)), fsync=self._fsync)
        part.close()
        return part

    def _add_second_name(self, name: str) -> None:
        first, second = self._at(name), self._at(self._second_names[name])
        try:
            os.link(first, second, follow_symlinks=False)
        except OSError:
            # Without hard links, a kill now leaves an index that names a missing file.
            os.rename(first, second)

    def _undo(self) -> None:
        """Bring back the old checkpoint after an error between the renames."""
        try:
            for name, part in self._parts.items():
                if part.renamed and name not in self._second_names:
                    os.unlink(self._at(name))
            for name in self._second_names:
                self._restore(name)
            # Last: until then, the index names the second names, which are still there.
            if self._old_index_part is not None:
                self._old_index_part.rename(self._at(self._index))
            self._remove_second_names()
        except OSError:
            # What has a second name keeps it: the index may name it.
            return

    def _restore(self, name: str) -> None:
        target, second = self._at(name), self._at(self._second_names[name])
        if not os.path.lexists(second) or _same(target, second):
            return
        assert self._lock is not None
        spare = self._at(f".restored.{self._lock.token}{PART_SUFFIX}")
        try:
            os.link(second, spare, follow_symlinks=False)
        except OSError:
            spare = second
        os.rename(spare, target)

    def _remove_old(self, names: Iterable[str], old: ShardIndex | None) -> None:
        """Remove what only the old checkpoint used."""
        new = set(names)
        # A stale index first: it would name missing files.
        for name in [self._index, *sorted(self._names(old))]:
            ours = name.endswith(".safetensors") or name == self._index
            if name not in new and ours:
                with contextlib.suppress(FileNotFoundError):
                    if not _is_folder(self._at(name)):
                        os.unlink(self._at(name))
        self._remove_second_names()
        self._sync()

    def _remove_second_names(self) -> None:
        """Remove second names, of this save and of killed ones, that no index names."""
        found = os.listdir(self._folder)
        second = {name for name in found if _PREVIOUS.fullmatch(name)}
        for name in found if second else []:
            if name.endswith(INDEX_SUFFIX):
                second -= self._names(self._read_index(name))
        for name in second:
            with contextlib.suppress(OSError):
                os.unlink(self._at(name))
        self._second_names = {}

    def _sync(self) -> None:
        if self._fsync:
            sync(self._fd)

    def _release(self) -> None:
        # Each step is taken even where another is interrupted; the last one here is the first.
        with contextlib.ExitStack() as steps:
            if not self._replaced:
                steps.callback(self._remove_made)
            if self._fd >= 0:
                steps.callback(os.close, self._fd)
                self._fd = -1
            if self._lock is not None:
                steps.callback(self._lock.release)
                steps.callback(self._remove_own, self._lock.token)
            for part in [*self._parts.values(), self._old_index_part]:
                if part is not None:
                    steps.callback(part.release)

    def _remove_own(self, token: str) -> None:
        """Remove what an interruption has left of this save."""
        endings = [f".{token}{PART_SUFFIX}"]
        if self._replaced:
            endings.append(f".{token}{_ENDING}")
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):
                # The lock of this save comes last: without it, others could think it dead.
                if name.endswith(tuple(endings)) and not name.startswith(".checkpoint."):
                    os.unlink(self._at(name))

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


class _LocalOutput:
    """A file of a checkpoint while it is written."""

    def __init__(self, path: str, part: PartFile) -> None:
        self._path = path
        self.reserve = part.reserve
        self.write = part.write

    def naming(self) -> AbstractContextManager[None]:
        return naming(self._path)


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False
