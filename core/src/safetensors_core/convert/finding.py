"""What a source of a conversion stands for: one file or many, and how each is opened."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from safetensors_core.convert.foreign import ForeignCheckpoint, StoredTensor
from safetensors_core.convert.safetensors_file import is_safetensors, read_safetensors
from safetensors_core.errors import (
    CheckpointError,
    CheckpointReason,
    ConversionError,
    InvalidInputError,
    SafetensorError,
    UnsupportedDtypeError,
)
from safetensors_core.plugin_info import remedy
from safetensors_core.plugins import (
    found_plugins,
    get_framework,
    list_plugins,
    read_checkpoint,
    unusable_plugins,
)
from safetensors_core.shards.index import ShardIndex, parse_index
from safetensors_core.shards.location import check_inside, find_checkpoint
from safetensors_core.sources.local import check_path, is_url, without_scheme
from safetensors_core.sources.urls import shown

__all__ = ["SourceFiles", "find_source", "opened"]

_INDEX = ".index.json"
# Endings of the formats that the project's own plugins read, with the extra that brings each.
_EXTRAS = {
    ".bin": "torch",
    ".ckpt": "torch",
    ".gguf": "numpy",
    ".h5": "tensorflow",
    ".keras": "tensorflow",
    ".msgpack": "jax",
    ".npy": "numpy",
    ".npz": "numpy",
    ".onnx": "numpy",
    ".pdiparams": "paddle",
    ".pdopt": "paddle",
    ".pdparams": "paddle",
    ".pt": "torch",
    ".pth": "torch",
}
# What metadata calls frameworks, where that is not their name.
_FORMATS = {"jax": "flax", "numpy": "np", "paddle": "pd", "tensorflow": "tf", "torch": "pt"}
# What programs call the weights of any model.
_ANY_MODEL = {"", "flax_model", "model_state", "pytorch_model", "tf_model"}
# What they write beside the weights, and nobody means by the name of the folder.
_BESIDE = {"optimizer", "rng_state", "scaler", "scheduler", "training_args"}
_NUMBER = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})(?=\.)", re.ASCII)


class SourceFiles(NamedTuple):
    """The files of a checkpoint that is to be converted.

    Attributes:
        location: What the user gave, without ``file://``.
        folder: The folder that they are in; where the result goes by default.
        files: Their paths, in the order of their names.
        stem: What the result is called, without its ending.
        metadata: Texts that the index says about the checkpoint.
        names: The tensors that the index names.

    Example:
        >>> find_source(model_path).stem
        'example'
    """

    location: str
    folder: str
    files: list[str]
    stem: str
    metadata: dict[str, str]
    names: Collection[str] = ()


def find_source(source: str | os.PathLike[str]) -> SourceFiles:
    """Find the files that a source stands for.

    Args:
        source: A file, an index such as ``pytorch_model.bin.index.json``, or a folder.

    Returns:
        The files. A folder that is itself a checkpoint counts as a file.

    Raises:
        InvalidInputError: It is a URL.
        CheckpointError: An index is not valid, or does not fit to its folder.
        ConversionError: A folder holds no checkpoint, or several.
        OSError: It cannot be read.

    Example:
        >>> find_source(model_path).files == [str(model_path)]
        True
    """
    check_path(source)
    location = os.fsdecode(without_scheme(source))
    if is_url(location):
        raise InvalidInputError(
            f"{shown(location)}: only local files are converted; download the checkpoint first"
        )
    if os.path.isdir(location):
        return _in_folder(location)
    folder, name = os.path.split(location)
    if name.endswith(_INDEX):
        return _indexed(location, folder or os.curdir, name)
    return SourceFiles(location, folder or os.curdir, [location], _stem(name), {})


@contextlib.contextmanager
def opened(path: str, *, optimizer: bool = False) -> Iterator[ForeignCheckpoint]:
    """Open one file of a checkpoint with the plugin that reads it.

    Args:
        path: The file, or the folder that is a checkpoint.
        optimizer: Whether the state of an optimizer is wanted, too.

    Yields:
        What is in it; every tensor is a `StoredTensor`. Closed at the end.

    Raises:
        UnsafeCheckpointError: Reading it would do harm.
        ConversionError: It is damaged, or no installed plugin reads it.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: It cannot be read.

    Example:
        >>> with opened(str(model_path)) as checkpoint:
        ...     list(checkpoint.tensors)
        ['bias', 'weight']
    """
    found = _read(path, optimizer)
    try:
        yield _described(found, path)
    finally:
        found.close()


def _read(path: str, optimizer: bool) -> ForeignCheckpoint:
    if is_safetensors(path):
        return read_safetensors(path)
    answer = read_checkpoint(path, optimizer=optimizer)
    if isinstance(answer, ForeignCheckpoint):
        return answer
    if answer is None:
        raise _unknown(path)
    try:
        tensors = dict(answer)
    except (SafetensorError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ConversionError(
            f"its plugin gives no pairs of names and tensors: {type(error).__name__}: {error}", path
        ) from error
    first = next(iter(tensors.values()), None)
    framework = "" if first is None else get_framework(first).name
    format_name = _FORMATS.get(framework, framework)
    return ForeignCheckpoint(tensors, framework=framework, format=format_name)


def _described(found: ForeignCheckpoint, path: str) -> ForeignCheckpoint:
    """The same checkpoint, with what lies in memory described like what does not."""
    tensors: dict[str, StoredTensor] = {}
    refused = dict(found.refused)
    for name, tensor in found.tensors.items():
        if isinstance(tensor, StoredTensor):
            tensors[name] = tensor
            continue
        framework = get_framework(tensor)
        try:
            spec = framework.describe(tensor)
        except UnsupportedDtypeError as error:
            error.tensor, error.location = name, path
            refused[name] = error.with_traceback(None)  # which would keep the tensor
        else:
            tensors[name] = StoredTensor(spec, partial(_itself, tensor))
    return replace(found, tensors=tensors, refused=refused)


def _itself(tensor: Any) -> Any:
    return tensor


def _unknown(path: str) -> Exception:
    if not os.path.lexists(path):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if os.path.isfile(path) and not os.path.getsize(path):
        return ConversionError("the file is empty; download or copy it again", path)
    plugins = list_plugins()
    extra = _EXTRAS.get(os.path.splitext(path)[1].lower())
    installed = {name for info in plugins for name in info.names}
    advice = f". {remedy(extra)}" if extra is not None and extra not in installed else ""
    return ConversionError(
        f"this is no checkpoint that an installed plugin reads ({found_plugins(plugins)}){advice}"
        f"{unusable_plugins(plugins)}",
        path,
    )


def _in_folder(folder: str) -> SourceFiles:
    names = sorted(os.listdir(folder))
    indexes = [name for name in names if name.endswith(_INDEX)]
    foreign = [name for name in indexes if not name.endswith(f".safetensors{_INDEX}")]
    if len(foreign) == 1:
        return _indexed(folder, folder, foreign[0])
    files = [name for name in names if _is_candidate(name)]
    if not foreign and _are_all_parts(files):
        paths = [os.path.join(folder, name) for name in files]
        return SourceFiles(folder, folder, paths, _stem(_NUMBER.sub("", files[0])), {})
    if len(foreign) > 1 or len(files) > 1:
        held = ", ".join(map(repr, (foreign or files)[:10]))
        raise ConversionError(
            f"the folder holds several checkpoints: {held}. Name one of them", folder
        )
    if files:
        return SourceFiles(folder, folder, [os.path.join(folder, files[0])], _stem(files[0]), {})
    if any(name.endswith(".safetensors") for name in names):
        located = find_checkpoint(folder)
        index = located.index if located.index is not None else ShardIndex({})
        paths = [located.path(file) for file in located.files]
        return SourceFiles(
            folder, folder, paths, "model", _texts(index.metadata), index.weight_map.keys()
        )
    place, name = os.path.split(os.path.abspath(folder))
    return SourceFiles(folder, place, [folder], name or "model", {})


def _are_all_parts(files: list[str]) -> bool:
    """Whether files are those of one checkpoint, as their numbers say."""
    numbers = [_NUMBER.search(name) for name in files]
    counts = {match["count"] for match in numbers if match}
    return (
        None not in numbers
        and len({_NUMBER.sub("", name) for name in files}) == 1
        and counts == {f"{len(files):05}"}
    )


def _is_candidate(name: str) -> bool:
    stem, ending = os.path.splitext(name)
    beside = stem in _BESIDE or ending == ".pdopt" or name.startswith(".")
    return ending.lower() in _EXTRAS and not beside


def _indexed(location: str, folder: str, name: str) -> SourceFiles:
    path = os.path.join(folder, name)
    with open(path, "rb") as file:
        index = parse_index(file.read(), path)
    names = list(index.files)
    missing = [name for name in names if not os.path.exists(os.path.join(folder, name))]
    if missing:
        detail = "the index names files that do not exist"
        raise CheckpointError(CheckpointReason.MISSING_SHARD, detail, path, missing)
    check_inside(folder, names, path)
    files = [os.path.join(folder, name) for name in names]
    stem = _stem(name.removesuffix(_INDEX))
    return SourceFiles(
        location, folder, files, stem, _texts(index.metadata), index.weight_map.keys()
    )


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _stem(name: str) -> str:
    """What a result is called: ``model`` for the names that libraries give to any model."""
    stem = name
    for ending in (".weights.h5", *_EXTRAS, ".safetensors"):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
            break
    return "model" if stem in _ANY_MODEL else stem
