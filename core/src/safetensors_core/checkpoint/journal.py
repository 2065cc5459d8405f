"""What a save is about to rename and to remove, noted for the case that it is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable

from safetensors_core.leftovers import shared_parts, unlocked
from safetensors_core.parts import PartFile, sync

__all__ = ["note_files", "remove_orphans"]


def note_files(part: PartFile, index: str, names: Iterable[str], *, fsync: bool) -> None:
    """Note the files that a save is about to bring in or to remove.

    Args:
        part: The file whose lock stands for the save; it is empty.
        index: Name of the checkpoint's index.
        names: Names of the files.
        fsync: Whether to wait until the note is on disk.

    Raises:
        OSError: The file system refuses.

    Example:
        >>> part = PartFile(str(tmp_path))
        >>> note_files(part, "m.safetensors.index.json", ["m.safetensors"], fsync=False)
        >>> part.release()
    """
    note = {"index": index, "files": sorted(names)}
    part.write([memoryview(json.dumps(note).encode())])
    if fsync:
        sync(part.fd)


def remove_orphans(folder: str, index: str, used: Collection[str]) -> None:
    """Remove files that killed saves of a checkpoint have brought in or were about to remove.

    Args:
        folder: Path of the folder.
        index: Name of the checkpoint's index. What saves of others noted stays.
        used: Names of files that stay, because the checkpoint needs them.

    Example:
        >>> part = PartFile(str(tmp_path))
        >>> note_files(part, "m.json", ["a.safetensors", "b.safetensors"], fsync=False)
        >>> part.close()  # what is left of the save if its process is killed
        >>> for name in ("a.safetensors", "b.safetensors"):
        ...     _ = (tmp_path / name).write_bytes(b"a shard")
        >>> remove_orphans(str(tmp_path), "m.json", ["b.safetensors"])
        >>> os.listdir(tmp_path)
        ['b.safetensors']
    """
    for path in shared_parts(folder):
        with contextlib.suppress(OSError), unlocked(path) as fd:
            names = _noted(os.pread(fd, os.fstat(fd).st_size, 0), index)
            if names is None:
                continue
            for name in names:
                if name not in used:
                    # It is gone already, or a folder, or no name at all, whoever wrote the note.
                    with contextlib.suppress(OSError, ValueError):
                        os.unlink(os.path.join(folder, name))
            os.unlink(path)


def _noted(data: bytes, index: str) -> list[str] | None:
    """The names in a note; None where it is about another checkpoint."""
    try:
        note = json.loads(data)
        names = [os.fspath(name) for name in note["files"]] if note["index"] == index else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return []  # it was not complete, so nothing had been renamed
    if names is None:
        return None
    # Only shards are removed by a note, whoever wrote it.
    return [name for name in names if name.endswith(".safetensors") and "/" not in name]
