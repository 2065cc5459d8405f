"""What a save is about to rename and to remove, noted for the case that it is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable

from safetensors_core.leftovers import shared_parts, unlocked
from safetensors_core.parts import PartFile, sync

__all__ = ["note_files", "remove_orphans"]


def note_files(part: PartFile, names: Iterable[str], *, fsync: bool) -> None:
    """Note the files that a save is about to bring in or to remove.

    Args:
        part: The file whose lock stands for the save; it is empty.
        names: Names of the files.
        fsync: Whether to wait until the note is on disk.

    Raises:
        OSError: The file system refuses.

    Example:
        >>> part = PartFile(str(tmp_path))
        >>> note_files(part, ["model.safetensors"], fsync=False)
        >>> part.release()
    """
    part.write([memoryview(json.dumps(sorted(names)).encode())])
    if fsync:
        sync(part.fd)


def remove_orphans(folder: str, used: Collection[str]) -> None:
    """Remove files that killed saves have brought in or were about to remove.

    Args:
        folder: Path of the folder.
        used: Names of files that stay, because the checkpoint in the folder needs them.

    Example:
        >>> part = PartFile(str(tmp_path))
        >>> note_files(part, ["a.safetensors", "b.safetensors"], fsync=False)
        >>> part.close()  # what is left of the save if its process is killed
        >>> for name in ("a.safetensors", "b.safetensors"):
        ...     _ = (tmp_path / name).write_bytes(b"a shard")
        >>> remove_orphans(str(tmp_path), ["b.safetensors"])
        >>> os.listdir(tmp_path)
        ['b.safetensors']
    """
    for path in shared_parts(folder):
        with contextlib.suppress(OSError), unlocked(path) as fd:
            for name in _noted(os.pread(fd, os.fstat(fd).st_size, 0)):
                if name not in used:
                    with contextlib.suppress(OSError):  # gone already, or a folder
                        os.unlink(os.path.join(folder, name))
            os.unlink(path)


def _noted(data: bytes) -> list[str]:
    """The names in a note. Only shards are removed by it, whoever wrote it."""
    try:
        names = json.loads(data)
    except ValueError:  # the note was not complete, so nothing had been renamed
        return []
    return [
        name
        for name in (names if isinstance(names, list) else [])
        if isinstance(name, str)
        and name.endswith(".safetensors")
        and not {"/", "\0"}.intersection(name)
    ]
