"""Trees of arrays: models, parameters and optimizer states under names made of their paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from safetensors_core import (
    MAX_HEADER,
    InvalidInputError,
    StateDictError,
    match_state_dict,
    safe_open,
)
from safetensors_jax import save_file

if TYPE_CHECKING:
    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend

__all__ = ["load_pytree", "save_pytree"]

# Flax wraps arrays to say what they are for. Their own names add nothing: `kernel`, not
# `kernel.value`. Known by name, because Flax need not be installed.
_BOXES = {
    ("flax.nnx", "Variable"),
    ("flax.nnx", "VariableState"),
    ("flax.core.meta", "AxisMetadata"),
}


class _Leaf(NamedTuple):
    """A leaf of a tree, its name in a file, and its path as JAX writes it."""

    name: str
    path: str
    value: Any


def save_pytree(
    tree: Any,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    separator: str = ".",
    alignment: int = 8,
    fsync: bool = True,
    progress: Progress | None = None,
) -> None:
    """Save the arrays of a tree, each under the keys of its path.

    Arrays of JAX and NumPy are saved, and random keys as their data (`jax.random.key_data`).
    Everything else is not part of the file: functions, strings, None, and Python's numbers. A
    number that changes, such as a step, must be an array to be saved.

    Args:
        tree: A model of Flax NNX or Equinox, or parameters, variables, a train state or an
            optimizer state: anything that JAX knows as a tree.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        separator: Text between the keys of a path.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: Two leaves have one name, a leaf cannot be saved, or there is none.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> path = tmp_path / "params.safetensors"
        >>> save_pytree({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}, path)
        >>> with safe_open(path, "jax") as file:
        ...     file.keys()
        ['dense.bias', 'dense.kernel']
    """
    tensors: dict[str, Any] = {}
    leaves = _leaves(tree, separator)
    for leaf in leaves:
        if isinstance(leaf.value, jax.ShapeDtypeStruct):
            raise InvalidInputError(f"leaf {leaf.path} is a jax.ShapeDtypeStruct: it has no data")
        if _is_key(leaf.value):
            tensors[leaf.name] = jax.random.key_data(leaf.value)
        elif _is_array(leaf.value):
            tensors[leaf.name] = leaf.value
    if leaves and not tensors:
        raise InvalidInputError(
            f"the tree holds no array, but objects such as {type(leaves[0].value).__name__}"
        )
    save_file(tensors, filename, metadata, alignment=alignment, fsync=fsync, progress=progress)


def load_pytree(
    filename: str | os.PathLike[str],
    like: Any = None,
    *,
    separator: str = ".",
    device: Any = None,
    strict: bool = True,
    backend: Backend = "auto",
    dtype: Any = None,
    max_header: int = MAX_HEADER,
    progress: Progress | None = None,
) -> Any:
    """Load a tree that `save_pytree` saved, or any file whose names are paths.

    Args:
        filename: Path of the file.
        like: A tree of the structure wanted: of arrays, or of `jax.ShapeDtypeStruct` as
            `jax.eval_shape` makes them. What is not an array is taken from it. By default, the
            result is dicts, made by splitting the names.
        separator: Text between the keys of a path.
        device: Where the arrays shall live, as in `load_file`; a mapping goes by the names in
            the file. By default, each goes where the array in `like` is, if that has been put
            somewhere, and to JAX's default device otherwise.
        strict: Whether arrays that only the file or only `like` has are an error. If not, those
            that the file lacks are taken from `like`.
        backend: ``"mmap"``, ``"pread"`` or ``"auto"``, as in `load_file`.
        dtype: What floating-point arrays become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``. All others stay as they are.
        max_header: Longest header to accept, in bytes.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        A tree of the structure of `like`, or nested dicts. The arrays have the dtype that they
        have in the file, or `dtype`, whatever it is in `like`.

    Raises:
        StateDictError: Names or shapes are not those of `like`; nothing has been loaded then.
        InvalidInputError: Two leaves have one name, a name is also the beginning of another, or
            JAX cannot convert a tensor.
        HeaderError: The file is not a valid safetensors file.
        UnsupportedDtypeError: JAX cannot represent a tensor exactly.
        OSError: The file cannot be opened or read.

    Warns:
        UserWarning: Some have 64 bits, with which JAX does not compute unless it is told to.

    Example:
        >>> path = tmp_path / "params.safetensors"
        >>> save_pytree({"layers": [jnp.ones(2), jnp.zeros(1)]}, path)
        >>> load_pytree(path)
        {'layers': {'0': Array([1., 1.], dtype=float32), '1': Array([0.], dtype=float32)}}
        >>> load_pytree(path, {"layers": [jnp.zeros(2), jnp.zeros(1)]})
        {'layers': [Array([1., 1.], dtype=float32), Array([0.], dtype=float32)]}
    """
    if like is None:
        with safe_open(filename, "jax", device, backend=backend, max_header=max_header) as file:
            places = _split(file.offset_keys(), separator)
            return _nested(file.get_tensors(dtype=dtype, progress=progress), places)
    leaves = _leaves(like, separator)
    if device is None:
        device = {leaf.name: _place(leaf.value) for leaf in leaves}
    with safe_open(filename, "jax", device, backend=backend, max_header=max_header) as file:
        found = {name: info.shape for name, info in file.header.tensors.items()}
        expected = {
            leaf.name: shape
            for leaf in leaves
            # A number may have been an array when it was saved, as a step is after jit.
            if (shape := _shape(leaf.value)) is not None
            and (_is_array(leaf.value) or leaf.name in found)
        }
        missing, unexpected = match_state_dict(os.fspath(filename), found, expected, strict=strict)
        without = set(missing)
        hollow = [
            leaf.name
            for leaf in leaves
            if leaf.name in without and isinstance(leaf.value, jax.ShapeDtypeStruct)
        ]
        if hollow:  # nothing that could be kept
            raise StateDictError(os.fspath(filename), hollow, [], {})
        extra = set(unexpected)
        names = [name for name in found if name not in extra]
        tensors = file.get_tensors(names, dtype=dtype, progress=progress)
    values = [_restored(leaf, tensors) for leaf in leaves]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), values)


def _leaves(tree: Any, separator: str) -> list[_Leaf]:
    """The leaves of a tree in JAX's order, under names that are all different."""
    _check_separator(separator)
    found: dict[str, _Leaf] = {}
    for path, value in _paths(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=separator)
        leaf = _Leaf(name, jax.tree_util.keystr(path) or "at the root", value)
        if name in found:
            raise InvalidInputError(
                f"leaves {found[name].path} and {leaf.path} would both be named {name!r}: choose "
                "another separator"
            )
        found[name] = leaf
    return list(found.values())


def _paths(tree: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Paths and leaves; what Flax wraps is at the path of its box."""
    try:
        leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)[0]
    except ValueError as error:  # keys of a dict that cannot be sorted
        raise InvalidInputError(f"the tree cannot be flattened: {error}") from error
    for path, value in leaves:
        if not _is_box(value):
            yield path, value
            continue
        for inner, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
            own = bool(inner) and getattr(inner[0], "name", None) == "value"
            # A box may hold a tree, or another box.
            yield path + (inner[1:] if own else inner), leaf


def _is_box(value: Any) -> bool:
    return any(
        base.__name__ == name and base.__module__.startswith(module)
        for base in type(value).__mro__
        for module, name in _BOXES
    )


def _is_array(value: Any) -> bool:
    """Whether a leaf is an array of any library, or describes one."""
    # NumPy's scalar types have the attributes of their instances.
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)


def _is_key(value: Any) -> bool:
    return _is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _shape(value: Any) -> tuple[int, ...] | None:
    """Shape that a leaf has in a file; None for what is never in one."""
    if isinstance(value, (bool, int, float, complex)):
        return ()
    if not _is_array(value):
        return None
    if _is_key(value):
        return tuple(jax.eval_shape(jax.random.key_data, value).shape)
    return tuple(value.shape)


def _place(value: Any) -> Any:
    """Where a leaf of `like` has been put by somebody, or None."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array):
        return value.sharding if value.committed else None
    sharding = getattr(value, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    if not isinstance(sharding, jax.sharding.Sharding):
        return None
    return None if isinstance(mesh, jax.sharding.AbstractMesh) else sharding


def _restored(leaf: _Leaf, tensors: Mapping[str, jax.Array]) -> Any:
    """The value of a leaf: from the file, or what it was."""
    array = tensors.get(leaf.name)
    if array is None:
        return leaf.value
    if not _is_key(leaf.value):
        return array
    try:
        return _as_key(array, leaf.value)
    except TypeError as error:
        raise InvalidInputError(
            f"tensor {leaf.name!r} cannot be a {leaf.value.dtype}: {error}"
        ) from error


def _as_key(data: jax.Array, like: Any) -> jax.Array:
    """A random key of the same kind as another, or as one that is only described."""
    kinds: list[Any] = []

    def note(key: jax.Array) -> jax.Array:
        kinds.append(jax.random.key_impl(key))
        return key

    jax.eval_shape(note, like)
    key: jax.Array = jax.random.wrap_key_data(data, impl=kinds[0])
    return key


def _check_separator(separator: Any) -> None:
    if not isinstance(separator, str) or not separator:
        raise InvalidInputError(f"separator must be a text of one character or more: {separator!r}")


def _split(names: list[str], separator: str) -> dict[str, list[str]]:
    """Paths in nested dicts, checked before anything is loaded."""
    _check_separator(separator)
    places = {name: name.split(separator) for name in names}
    for name, keys in places.items():
        for i in range(1, len(keys)):
            shorter = separator.join(keys[:i])
            if shorter in places:
                raise InvalidInputError(
                    f"tensor {shorter!r} and tensor {name!r} cannot both be in nested dicts: "
                    "choose another separator, or give the structure as `like`"
                )
    return places


def _nested(tensors: Mapping[str, jax.Array], places: Mapping[str, list[str]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *parents, last = places[name]
        branch = tree
        for key in parents:
            branch = branch.setdefault(key, {})
        branch[last] = array
    return tree
