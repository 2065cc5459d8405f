"""Which folders Orbax wrote, and where in them its trees are."""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

from safetensors_core import ConversionError, UnsafeCheckpointError

__all__ = ["AGGREGATE", "METADATA", "OrbaxFolder", "find_orbax", "folder_size", "read_json"]

#: The file in which Orbax describes a tree.
METADATA = "_METADATA"

#: The file in which Orbax described a tree until 2023, and held small arrays.
AGGREGATE = "checkpoint"

_CHECKPOINT = "_CHECKPOINT_METADATA"
_DEFAULT = "default"
_UNFINISHED = re.compile(r"\.orbax-checkpoint-tmp")
_STEP = re.compile(r"(?:(?:checkpoint|ckpt|step)[_-])?(\d{1,18})")
_HEAD = 2**16  # bytes
_LONGEST_JSON = 100_000_000  # bytes


class OrbaxFolder(NamedTuple):
    """A checkpoint of Orbax.

    Attributes:
        folder: Its folder: that of the step, where there are several.
        trees: Folders of trees by the name of the item, which is empty for the only one.
        others: What else the checkpoint holds: items by name, with their folders.
        step: The step that was taken; None where the folder is no series of steps.

    Example:
        >>> OrbaxFolder("run", {"": "run/20/default"}, {}, 20).step
        20
    """

    folder: str
    trees: dict[str, str]
    others: dict[str, str]
    step: int | None


def find_orbax(path: str | os.PathLike[str]) -> OrbaxFolder | None:
    """Find the trees of a checkpoint.

    Args:
        path: The folder of a tree, of a step with one or more items, or of a `CheckpointManager`,
            whose latest step is taken; or a file `_METADATA` in the first.

    Returns:
        Where its parts are, or None if Orbax did not write it.

    Raises:
        ConversionError: It was not finished.

    Example:
        >>> find_orbax(tmp_path) is None
        True
    """
    folder = os.path.abspath(os.fsdecode(path))
    if os.path.basename(folder) in {METADATA, _CHECKPOINT}:
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return None
    found = _find_items(folder, None)
    if found is None:
        steps = [
            (int(match[1]), name) for name in _folders(folder) if (match := _STEP.fullmatch(name))
        ]
        for step, name in sorted(steps, reverse=True):
            found = _find_items(os.path.join(folder, name), step)
            if found is not None:
                break
    if found is not None and _UNFINISHED.search(os.path.basename(found.folder)):
        raise ConversionError("Orbax did not finish this checkpoint", found.folder)
    return found


def _find_items(folder: str, step: int | None) -> OrbaxFolder | None:
    if _is_tree(folder):
        return OrbaxFolder(folder, {"": folder}, {}, step)
    items = {name: os.path.join(folder, name) for name in _folders(folder)}
    # A tree that says so is a checkpoint of its own, and its folder one of many models.
    trees = {
        name: item
        for name, item in items.items()
        if _is_tree(item) and not os.path.exists(os.path.join(item, _CHECKPOINT))
    }
    if not trees:
        return None
    others = {name: item for name, item in items.items() if name not in trees}
    if list(trees) == [_DEFAULT]:
        trees = {"": trees[_DEFAULT]}
    return OrbaxFolder(folder, trees, others, step)


def _is_tree(folder: str) -> bool:
    head = _head(os.path.join(folder, METADATA))
    if head.lstrip().startswith(b"{") and b'"tree_metadata"' in head:
        return True
    return b"PLACEHOLDER://" in _head(os.path.join(folder, AGGREGATE))


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _folders(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except PermissionError:
        return []
    # A link that leads to itself is no folder; to `os.scandir` it would be an error.
    return [name for name in names if os.path.isdir(os.path.join(folder, name))]


def folder_size(folder: str) -> int:
    """Bytes of all files of a checkpoint.

    Args:
        folder: The checkpoint's own.

    Returns:
        The sum.

    Raises:
        UnsafeCheckpointError: A symbolic link leads out of the folder.

    Example:
        >>> _ = (tmp_path / "a").write_bytes(b"abc")
        >>> folder_size(str(tmp_path))
        3
    """
    inside = os.path.join(os.path.realpath(folder), "")
    total = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            if os.path.islink(path) and not os.path.realpath(path).startswith(inside):
                raise UnsafeCheckpointError(
                    f"{os.path.relpath(path, folder)!r} is a symbolic link that leaves the folder. "
                    "If you trust it, copy the folder with the files that the links lead to",
                    folder,
                )
        total += sum(os.path.getsize(os.path.join(parent, name)) for name in files)
    return total


def read_json(path: str) -> dict[str, Any]:
    """A file that holds an object in JSON.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        ConversionError: It holds something else, or is too long.

    Example:
        >>> _ = (tmp_path / "a").write_text('{"step": 3}')
        >>> read_json(str(tmp_path / "a"))
        {'step': 3}
    """
    with open(path, "rb") as file:
        data = file.read(_LONGEST_JSON + 1)
    if len(data) > _LONGEST_JSON:
        raise ConversionError(f"it is longer than {_LONGEST_JSON:,} bytes", path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"it is no JSON: {error}", path) from None
    if not isinstance(value, dict):
        raise ConversionError("it holds no JSON object", path)
    return value
