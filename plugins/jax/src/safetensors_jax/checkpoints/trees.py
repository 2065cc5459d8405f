"""A checkpoint's tree → names of tensors, metadata, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from safetensors_core import ConversionError, Dtype, SafetensorError, UnsupportedDtypeError
from safetensors_core.convert import StoredTensor
from safetensors_numpy.framework import NumpyFramework

__all__ = ["Contents", "Leaf", "find_dtype", "plain_text", "sort_leaves"]

_OPTIMIZER = "opt_state"
_BOXED = "value"
_SHOWN = 1000

_CODES = {dtype.name: code for code, dtype in NumpyFramework.dtypes.items()}


class Leaf(NamedTuple):
    """A value of the tree, and the keys that lead to it.

    Attributes:
        path: The keys, outermost first.
        tensor: For a tensor: makes its description, given its name.
        plain: For a text or a number: as a text.
        reason: For anything else: what it is.

    Example:
        >>> Leaf(("step",), plain="3").plain
        '3'
    """

    path: tuple[str, ...]
    tensor: Callable[[str], StoredTensor] | None = None
    plain: str | None = None
    reason: str = ""


@dataclass
class Contents:
    """What a tree holds, by name.

    Attributes:
        tensors: What can be read.
        metadata: Texts and numbers, as texts.
        left_out: Everything else, with the reason.
        refused: Tensors of which the format lacks the dtype, with the error that says so.

    Example:
        >>> Contents().tensors
        {}
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: dict[str, SafetensorError] = field(default_factory=dict)


def sort_leaves(leaves: Iterable[Leaf], optimizer: bool, location: str) -> Contents:
    """Sort what a tree holds into tensors, metadata and the rest.

    A name is made of the keys, with dots between them. Where `value` is the only key of its tree,
    Flax wrapped an array (`nnx.Param`, `nn.Partitioned`): it is left off, as `save_pytree` does.

    Args:
        leaves: All values of the tree.
        optimizer: Whether what lies below a key `opt_state` is wanted.
        location: The checkpoint as errors show it.

    Returns:
        What was found, in the order of the leaves.

    Raises:
        ConversionError: Two values have one name.

    Example:
        >>> tree = [Leaf(("params", "w"), reason="a timestamp"), Leaf(("step",), plain="3")]
        >>> found = sort_leaves(tree, False, "a.msgpack")
        >>> found.metadata, found.left_out
        ({'step': '3'}, {'params.w': 'a timestamp'})
    """
    found = Contents()
    names: set[str] = set()
    listed = list(leaves)
    siblings = _count_children(listed)
    for leaf in listed:
        path = leaf.path
        if not optimizer and _OPTIMIZER in path:
            root = path[: path.index(_OPTIMIZER) + 1]
            found.left_out[".".join(root)] = "optimizer state"
            continue
        if len(path) > 1 and path[-1] == _BOXED and siblings[path[:-1]] == 1:
            path = path[:-1]
        name = ".".join(path)
        if name in names:
            raise ConversionError(
                f"two values would both be named {name[:_SHOWN]!r}: rename a key that holds a dot",
                location,
            )
        names.add(name)
        if leaf.tensor is not None:
            try:
                found.tensors[name] = leaf.tensor(name)
            except UnsupportedDtypeError as error:
                found.refused[name] = error.with_traceback(None)  # whose frames would hold the tree
        elif leaf.plain is not None:
            found.metadata[name] = leaf.plain
        else:
            found.left_out[name] = leaf.reason
    return found


def _count_children(leaves: list[Leaf]) -> dict[tuple[str, ...], int]:
    """How many keys each tree has that holds a leaf called `value`."""
    children: dict[tuple[str, ...], set[str]] = {
        leaf.path[:-1]: set() for leaf in leaves if leaf.path and leaf.path[-1] == _BOXED
    }
    for leaf in leaves:
        for depth, key in enumerate(leaf.path):
            known = children.get(leaf.path[:depth])
            if known is not None:
                known.add(key)
    return {path: len(keys) for path, keys in children.items()}


def find_dtype(dtype: str, tensor: str, location: str) -> Dtype:
    """The code of a dtype.

    Args:
        dtype: As NumPy and `ml_dtypes` call it.
        tensor: Name of the tensor that has it.
        location: The checkpoint.

    Returns:
        The format's code.

    Raises:
        UnsupportedDtypeError: The format has none.

    Example:
        >>> find_dtype("bfloat16", "w", "a.msgpack")
        <Dtype.BF16: 'BF16'>
    """
    code = _CODES.get(dtype)
    if code is None:
        error = UnsupportedDtypeError(
            dtype,
            "the safetensors format",
            tensor=tensor,
            remedy="Convert the array with astype() and save the checkpoint again",
        )
        error.location = location
        raise error
    return code


def plain_text(value: object) -> str | None:
    """A text, number or truth value as a text.

    Args:
        value: Any value of a tree.

    Returns:
        What the metadata of a file can hold of it; None for values of other kinds.

    Example:
        >>> plain_text(0.5), plain_text(None)
        ('0.5', None)
    """
    return str(value) if isinstance(value, (str, int, float)) else None
