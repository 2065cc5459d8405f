"""The index of a checkpoint: a JSON file that says which shard holds which tensor."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from safetensors_core.errors import CheckpointError, CheckpointReason

__all__ = [
    "INDEX_FILE",
    "INDEX_SUFFIX",
    "SINGLE_FILE",
    "ShardIndex",
    "encode_index",
    "leaves_folder",
    "parse_index",
    "raise_fault",
]

#: Name of a checkpoint that is one file.
SINGLE_FILE = "model.safetensors"
#: Name of the index of a checkpoint that is several files.
INDEX_FILE = "model.safetensors.index.json"
#: How the names of all indexes end.
INDEX_SUFFIX = ".safetensors.index.json"

_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SEPARATOR = re.compile(r"[/\\]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class ShardIndex(msgspec.Struct, frozen=True):
    """What an index says.

    Attributes:
        weight_map: Name of the file by name of the tensor. Names of files are relative to the
            folder of the index.
        metadata: What the index says of the checkpoint as a whole; `total_size` is the size of all
            tensors in bytes.

    Example:
        >>> index = ShardIndex({"b": "2.safetensors", "a": "1.safetensors", "c": "2.safetensors"})
        >>> index.files
        {'1.safetensors': ['a'], '2.safetensors': ['b', 'c']}
    """

    weight_map: dict[str, str]
    metadata: dict[str, Any] = {}

    @property
    def files(self) -> dict[str, list[str]]:
        """Names of the tensors by name of the file, files sorted.

        Example:
            >>> ShardIndex({}).files
            {}
        """
        files: dict[str, list[str]] = {file: [] for file in sorted(set(self.weight_map.values()))}
        for name, file in self.weight_map.items():
            files[file].append(name)
        return files


def raise_fault(fault: CheckpointError) -> None:
    """Raise a fault where it is found.

    Args:
        fault: What is wrong.

    Example:
        >>> raise_fault(CheckpointError(CheckpointReason.AMBIGUOUS, "there are two", "model"))
        Traceback (most recent call last):
        safetensors_core.errors.CheckpointError: model: there are two
    """
    raise fault


def parse_index(
    data: bytes, location: str, on_fault: Callable[[CheckpointError], object] = raise_fault
) -> ShardIndex:
    """Read an index, and check all that needs no other file.

    Args:
        data: The bytes of the index.
        location: Path or URL of the index, as errors show it.
        on_fault: Called with a fault that leaves an index to go on with.

    Returns:
        What it says.

    Raises:
        CheckpointError: It is no valid index, or names a file outside of its folder.

    Example:
        >>> parse_index(b'{"weight_map": {"a": "../secret.safetensors"}}', "index.json")
        Traceback (most recent call last):
        safetensors_core.errors.CheckpointError: index.json: ... '../secret.safetensors'
    """
    index = _decoded(data, location)
    outside = sorted(file for file in set(index.weight_map.values()) if leaves_folder(file))
    if outside:
        detail = "the index names files that are not in its folder, and they are not read"
        on_fault(CheckpointError(CheckpointReason.OUTSIDE_FOLDER, detail, location, outside))
    return index


def leaves_folder(file: str) -> bool:
    r"""Whether a name in an index is something else than that of a file in or below its folder.

    Args:
        file: The name.

    Returns:
        True for absolute paths, drives, URLs, names with ``..`` or a NUL, and the empty name.

    Example:
        >>> [leaves_folder(file) for file in ("a", "b/a", "../a", "/a", "c:\\a", "s3://b/a", "")]
        [False, False, True, True, True, True, True]
    """
    parts = _SEPARATOR.split(file)
    # An empty part stands in front of an absolute path, and behind a folder.
    strange = any(part in ("", ".", "..") for part in parts)
    return strange or "\0" in file or _DRIVE_OR_SCHEME.match(file) is not None


def encode_index(index: ShardIndex) -> bytes:
    r"""The bytes of an index, as the Hugging Face libraries write it.

    Args:
        index: What it shall say.

    Returns:
        JSON with sorted keys, indented by two spaces, and a newline at the end.

    Example:
        >>> encode_index(ShardIndex({"w": "a.safetensors"}, {"total_size": 8}))[:40]
        b'{\n  "metadata": {\n    "total_size": 8\n  '
    """
    document = {"metadata": index.metadata, "weight_map": index.weight_map}
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _decoded(data: bytes, location: str) -> ShardIndex:
    document = _document(data, location)
    if not isinstance(document, dict):
        raise _fault(location, f"expected a JSON object, found {type(document).__name__}")
    if "weight_map" not in document:
        raise _fault(location, "it has no 'weight_map'")
    weight_map, metadata = document["weight_map"], document.get("metadata") or {}
    for field, value in (("weight_map", weight_map), ("metadata", metadata)):
        if not isinstance(value, dict):
            raise _fault(location, f"{field!r} must be an object, not {type(value).__name__}")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise _fault(location, f"for {name!r}, weight_map names no file, but {file!r:.80}")
        # JSON can write it, but no header, file name or URL can hold it.
        if found := _SURROGATE.search(name) or _SURROGATE.search(file):
            raise _fault(location, f"weight_map holds a lone surrogate in {found.string[:80]!a}")
    return ShardIndex(weight_map, metadata)


def _document(data: bytes, location: str) -> Any:
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_number
        )
    except RecursionError:
        raise _fault(location, "it is nested too deeply") from None
    except ValueError as error:  # also what is no UTF-8
        raise _fault(location, str(error)) from None


def _fault(location: str, text: str) -> CheckpointError:
    detail = f"this is not the index of a checkpoint: {text}"
    return CheckpointError(CheckpointReason.INVALID_INDEX, detail, location)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        [(repeated, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{repeated!r} occurs twice")
    return fields


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
