"""Checkpoints of Orbax, read an array at a time with TensorStore."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from safetensors_core import ConversionError, TensorSpec, UnsafeCheckpointError
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_jax.checkpoints.folders import METADATA, OrbaxFolder, folder_size, read_json
from safetensors_jax.checkpoints.trees import Leaf, find_dtype, plain_text, sort_leaves

__all__ = ["read_orbax"]

# Weights hardly shrink. What grows more, beyond a GiB, was made to fill memory or disk.
_MAX_EXPANSION = 100
_ALWAYS_ALLOWED = 2**30  # bytes

_CACHE = {"cache_pool#ocdbt": {"total_bytes_limit": 64 * 2**20}}
_MANIFEST = "manifest.ocdbt"
_PROCESS = "ocdbt.process_"
_STRINGS = "_strings.json"
_ROOT_METADATA = "_CHECKPOINT_METADATA"


def read_orbax(found: OrbaxFolder, optimizer: bool = False) -> ForeignCheckpoint:
    """Read a checkpoint folder of Orbax: OCDBT or not, Zarr 2 or 3, of any number of devices.

    Orbax itself is not needed, only TensorStore. Memory is one tensor, and what of its chunks is
    being decoded. Nothing is unpickled: a checkpoint is JSON and arrays.

    Args:
        found: What `find_orbax` found.
        optimizer: Whether `opt_state` is wanted, too.

    Returns:
        Its arrays under the keys of the tree, joined with dots, to be read as arrays of NumPy.
        Where a checkpoint has several items, the name of the item comes first.

    Raises:
        ConversionError: It is damaged, or TensorStore is not installed.
        UnsafeCheckpointError: A path or link leaves the folder, or it expands without measure.
        UnsupportedDtypeError: An array has a dtype that the format lacks.
        OSError: It cannot be read.

    Example:
        >>> read_orbax(OrbaxFolder(str(tmp_path), {}, {}, step=3)).metadata
        {'step': '3'}
    """
    limit = max(_MAX_EXPANSION * folder_size(found.folder), _ALWAYS_ALLOWED)
    leaves: list[Leaf] = []
    for item, folder in found.trees.items():
        leaves += _Tree(folder, limit).leaves((item,) if item else ())
    for item, folder in found.others.items():
        leaves += _other_item(item, folder)
    contents = sort_leaves(leaves, optimizer, found.folder)
    total = sum(tensor.spec.nbytes for tensor in contents.tensors.values())
    if total > limit:
        raise _bomb(total, found.folder)
    metadata = dict(_custom_metadata(found.folder))
    if found.step is not None:
        metadata["step"] = str(found.step)
    return ForeignCheckpoint(
        contents.tensors,
        framework="numpy",
        format="flax",
        metadata=metadata | contents.metadata,
        left_out=contents.left_out,
    )


def _bomb(size: int, location: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"its arrays claim to hold {size:,} bytes, many times what the folder holds", location
    )


class _Tree:
    """The folder of one tree."""

    def __init__(self, folder: str, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        described = read_json(os.path.join(folder, METADATA))
        self._entries = described.get("tree_metadata")
        self._ocdbt = os.path.exists(os.path.join(folder, _MANIFEST))
        self._driver = "zarr3" if described.get("use_zarr3") else "zarr"
        # Where Orbax wrote every chunk, one that is missing is lost, and not full of zeros.
        self._sparse = not described.get("store_array_data_equal_to_fill_value")
        if not self._ocdbt and any(name.startswith(_PROCESS) for name in os.listdir(folder)):
            raise ConversionError(
                f"there is no {_MANIFEST}: Orbax did not finish this checkpoint", folder
            )
        strings = os.path.join(folder, _STRINGS)
        self._strings = read_json(strings) if os.path.exists(strings) else {}
        self._tensorstore = _import_tensorstore(folder)
        self._context = self._tensorstore.Context(_CACHE)

    def leaves(self, prefix: tuple[str, ...]) -> Iterator[Leaf]:
        """All values of the tree, below the keys of a prefix."""
        if not isinstance(self._entries, dict):
            raise self._damaged("it describes no tree")
        for entry in self._entries.values():
            try:
                keys = tuple(key["key"] for key in entry["key_metadata"])
                value = entry["value_metadata"]
                kind, empty = value["value_type"], value.get("skip_deserialize", False)
            except (AttributeError, KeyError, TypeError):
                raise self._damaged("it describes a value in a way that Orbax does not") from None
            if not keys or not all(isinstance(key, str) for key in keys):
                raise self._damaged("it describes a value without a name")
            path = prefix + keys
            key = ".".join(keys)
            if empty:  # a dict or list without values is no value
                if kind == "None":
                    yield Leaf(path, reason="None, not a tensor")
            elif kind == "string":
                yield Leaf(path, plain=plain_text(self._strings.get(key)), reason="a lost text")
            elif kind == "scalar":
                yield self._scalar(path, key)
            else:
                yield Leaf(path, tensor=partial(self._stored, key))

    def _damaged(self, what: str) -> ConversionError:
        return ConversionError(what, os.path.join(self._folder, METADATA))

    def _scalar(self, path: tuple[str, ...], key: str) -> Leaf:
        store = self._open(key, key)
        if store.rank:
            return Leaf(path, tensor=partial(self._stored, key))
        return Leaf(path, plain=str(self._read(store, key).item()))

    def _stored(self, key: str, name: str) -> StoredTensor:
        store = self._open(key, name)
        code = find_dtype(store.dtype.name, name, self._folder)
        return StoredTensor(TensorSpec(code, store.shape), partial(self._read, store, name))

    def _open(self, key: str, name: str) -> Any:
        """An array of the tree, of which only the description was read."""
        parts = re.split(r"[/\\]", key)
        if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:$", parts[0]):
            raise UnsafeCheckpointError(
                f"its tree holds the key {key!r}, which leaves the folder", self._folder
            )
        base: dict[str, Any] = {"driver": "file", "path": os.path.join(self._folder, "")}
        if self._ocdbt:
            base = {
                "driver": "ocdbt",
                "base": base,
                "path": key,
                "cache_pool": "cache_pool#ocdbt",
            }
        else:
            base["path"] += key
        spec = {
            "driver": self._driver,
            "kvstore": base,
            "recheck_cached_data": False,
            "recheck_cached_metadata": False,
            "fill_missing_data_reads": self._sparse,
        }
        try:
            store = self._tensorstore.open(
                spec, open=True, read=True, context=self._context
            ).result()
            chunk = store.chunk_layout.read_chunk.shape or ()
            held = math.prod(chunk) * store.dtype.numpy_dtype.itemsize
        except Exception as error:  # noqa: BLE001  # whatever TensorStore makes of damage
            raise self._failed(name, error) from None
        if held > self._limit:
            raise _bomb(held, self._folder)
        return store

    def _read(self, store: Any, name: str) -> npt.NDArray[Any]:
        try:
            return np.asarray(store.read(order="C").result())
        except Exception as error:  # noqa: BLE001  # whatever TensorStore makes of damage
            raise self._failed(name, error) from None

    def _failed(self, name: str, error: Exception) -> ConversionError:
        # TensorStore adds the whole description of what it opened.
        cause = str(error).split(" [tensorstore_spec=")[0].splitlines()[0]
        if "Invalid key" in cause:
            return UnsafeCheckpointError(
                f"tensor {name!r} lies outside of the folder: {cause}", self._folder
            )
        return ConversionError(f"tensor {name!r} cannot be read: {cause}", self._folder)


def _import_tensorstore(folder: str) -> Any:
    try:
        import tensorstore
    except ImportError as error:
        raise ConversionError(
            f"this is a checkpoint of Orbax, which TensorStore reads: {error}. Try: pip install "
            '"safetensors-jax[orbax]"',
            folder,
        ) from None
    return tensorstore


def _other_item(item: str, folder: str) -> Iterator[Leaf]:
    """What `JsonSave` saved, and the mention of everything else."""
    for name in ("metadata", item):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            try:
                value = read_json(path)
            except ConversionError:
                break
            yield from _plain_leaves((item,), value)
            return
    yield Leaf((item,), reason="an item that is no tree of arrays")


def _plain_leaves(path: tuple[str, ...], value: Mapping[str, Any]) -> Iterator[Leaf]:
    for key, inner in value.items():
        plain = plain_text(inner)
        if plain is None:
            plain = json.dumps(inner)
        yield Leaf((*path, key), plain=plain)


def _custom_metadata(folder: str) -> Iterator[tuple[str, str]]:
    """What the user added to the checkpoint as a whole."""
    path = os.path.join(folder, _ROOT_METADATA)
    if os.path.isfile(path):
        custom = read_json(path).get("custom_metadata")
        if isinstance(custom, dict):
            for leaf in _plain_leaves((), custom):
                yield leaf.path[0], leaf.plain or ""
