"""Checkpoints of Orbax, read an array at a time with TensorStore."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from safetensors_core import ConversionError
from safetensors_core.convert import ForeignCheckpoint
from safetensors_jax.checkpoints.flax import flax_leaves
from safetensors_jax.checkpoints.folders import (
    AGGREGATE,
    METADATA,
    OrbaxFolder,
    folder_size,
    read_json,
)
from safetensors_jax.checkpoints.stored_arrays import StoredArrays, expansion_error
from safetensors_jax.checkpoints.trees import Leaf, plain_text, sort_leaves

__all__ = ["read_orbax"]

# Weights hardly shrink. What grows more, beyond a GiB, was made to fill memory or disk.
_MAX_EXPANSION = 100
_ALWAYS_ALLOWED = 2**30  # bytes

_STRINGS = "_strings.json"
_PLACEHOLDER = "PLACEHOLDER://"
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
        Where a checkpoint has several items, the name of the item comes first. Arrays of a dtype
        that the format lacks are refused.

    Raises:
        ConversionError: It is damaged, or TensorStore is not installed.
        UnsafeCheckpointError: A path or link leaves the folder, or it expands without measure.
        OSError: It cannot be read.

    Example:
        >>> read_orbax(OrbaxFolder(str(tmp_path), {}, {}, step=3)).metadata
        {'step': '3'}
    """
    limit = max(_MAX_EXPANSION * folder_size(found.folder), _ALWAYS_ALLOWED)
    with contextlib.ExitStack() as files:
        leaves: list[Leaf] = []
        for item, folder in found.trees.items():
            prefix = (item,) if item else ()
            tree = _Tree(folder, limit, files)
            leaves += (leaf._replace(path=prefix + leaf.path) for leaf in tree.leaves())
        for item, folder in found.others.items():
            leaves += _other_item(item, folder)
        contents = sort_leaves(leaves, optimizer, found.folder)
        total = sum(tensor.spec.nbytes for tensor in contents.tensors.values())
        if total > limit:
            raise expansion_error(total, found.folder)
        metadata = dict(_custom_metadata(found.folder))
        if found.step is not None:
            metadata["step"] = str(found.step)
        return ForeignCheckpoint(
            contents.tensors,
            framework="numpy",
            format="flax",
            metadata=metadata | contents.metadata,
            left_out=contents.left_out,
            refused=contents.refused,
            close=files.pop_all().close,
        )


class _Tree:
    """One tree: what describes it, and the arrays that it is made of."""

    def __init__(self, folder: str, limit: int, files: contextlib.ExitStack) -> None:
        self._folder = folder
        path = os.path.join(folder, METADATA)
        self._described = read_json(path) if os.path.exists(path) else None
        about = self._described or {}
        # Where Orbax wrote every chunk, one that is missing is lost, and not full of zeros.
        sparse = not about.get("store_array_data_equal_to_fill_value")
        zarr3 = bool(about.get("use_zarr3"))
        self._arrays = StoredArrays(folder, zarr3=zarr3, sparse=sparse, limit=limit)
        path = os.path.join(folder, _STRINGS)
        self._strings = read_json(path) if os.path.exists(path) else {}
        self._aggregate: dict[tuple[str, ...], Leaf] = {}
        path = os.path.join(folder, AGGREGATE)
        if os.path.isfile(path):
            file = files.enter_context(open(path, "rb"))  # noqa: SIM115  # it is one
            self._aggregate = {leaf.path: leaf for leaf in flax_leaves(file, path)}

    def leaves(self) -> Iterator[Leaf]:
        """All values of the tree."""
        if self._described is not None:
            return self._described_leaves(self._described.get("tree_metadata"))
        return self._aggregate_leaves()

    def _described_leaves(self, entries: Any) -> Iterator[Leaf]:
        if not isinstance(entries, dict):
            raise self._damaged("it describes no tree")
        for entry in entries.values():
            try:
                path = tuple(key["key"] for key in entry["key_metadata"])
                value = entry["value_metadata"]
                kind, empty = value["value_type"], value.get("skip_deserialize", False)
            except (AttributeError, KeyError, TypeError):
                raise self._damaged("it describes a value in a way that Orbax does not") from None
            if not path or not all(isinstance(key, str) for key in path):
                raise self._damaged("it describes a value without a name")
            inline = self._aggregate.get(path)
            if inline is not None and not _is_placeholder(inline):
                yield inline
            elif not empty:
                yield self._leaf(path, kind)
            elif kind == "None":  # other empty values are dicts and lists without any
                yield Leaf(path, reason="None, not a tensor")

    def _leaf(self, path: tuple[str, ...], kind: str) -> Leaf:
        key = ".".join(path)
        if kind == "string":
            return Leaf(path, plain=plain_text(self._strings.get(key)), reason="a lost text")
        if kind == "scalar" and (number := self._arrays.scalar(key)) is not None:
            return Leaf(path, plain=number)
        return Leaf(path, tensor=partial(self._arrays.stored, key))

    def _aggregate_leaves(self) -> Iterator[Leaf]:
        for leaf in self._aggregate.values():
            if _is_placeholder(leaf):
                key = str(leaf.plain).removeprefix(_PLACEHOLDER)
                yield Leaf(leaf.path, tensor=partial(self._arrays.stored, key))
            else:
                yield leaf

    def _damaged(self, what: str) -> ConversionError:
        return ConversionError(what, os.path.join(self._folder, METADATA))


def _is_placeholder(leaf: Leaf) -> bool:
    return leaf.plain is not None and leaf.plain.startswith(_PLACEHOLDER)


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
