"""Whole layers: state dicts in which several names may stand for one tensor."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import paddle

from safetensors_core import MAX_HEADER, InvalidInputError, match_state_dict, safe_open
from safetensors_paddle import save_file

if TYPE_CHECKING:
    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend

__all__ = ["load_model", "save_model"]


def save_model(
    layer: paddle.nn.Layer,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    progress: Progress | None = None,
) -> None:
    """Save a layer whose parameters may be tied.

    What is saved is `layer.state_dict()`: parameters and persistable buffers. Of names that
    stand for one tensor, the first in alphabetical order is saved. The metadata maps every
    dropped name to it.

    Args:
        layer: Any layer, with the layers inside of it.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: It is no layer, or a metadata value or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> tied = paddle.nn.Sequential(paddle.nn.Linear(2, 2), paddle.nn.Linear(2, 2))
        >>> tied[1].weight = tied[0].weight
        >>> path = tmp_path / "tied.safetensors"
        >>> save_model(tied, path)
        >>> with safe_open(path, "paddle") as file:
        ...     file.keys()
        ['0.bias', '0.weight', '1.bias']
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {type(metadata).__name__}")
    _check_layer(layer)
    # Hooks may convert the tensors that are saved, so that tied ones are no longer the same.
    state = _tensors(layer.state_dict())
    notes = dict(metadata or {})
    for group in _tied(_tensors(layer.state_dict(use_hook=False))):
        kept, *dropped = sorted(name for name in group if name in state)
        for name in dropped:
            notes.setdefault(name, kept)
            del state[name]
    # Empty metadata is stored only where it was asked for.
    stored = None if metadata is None and not notes else notes
    save_file(state, filename, stored, alignment=alignment, fsync=fsync, progress=progress)


def load_model(
    layer: paddle.nn.Layer,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: Any = "cpu",
    *,
    backend: Backend = "auto",
    max_header: int = MAX_HEADER,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Load a file into a layer whose parameters may be tied.

    Numbers of another floating-point type than the layer's are converted to it. Paddle's own
    `set_state_dict` fails then, with a part of the layer changed.

    Args:
        layer: The layer; its tensors are overwritten in place, on the device where they are.
        filename: Path of the file.
        strict: Whether missing and unexpected names are an error.
        device: Where the file's tensors are loaded before they are copied into the layer's.
        backend: ``"mmap"``, ``"pread"`` or ``"auto"``.
        max_header: Longest header to accept, in bytes.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Names of the layer that the file lacks, and names of the file that the layer lacks. A
        name that stands for the same tensor as a loaded one is not missing.

    Raises:
        StateDictError: Names or shapes do not match; the layer is unchanged.
        InvalidInputError: It is no layer, or a tensor is of another kind than the layer's,
            integers where it has floating-point numbers, say; the layer is unchanged.
        HeaderError: The file is not a valid safetensors file.
        OSError: The file cannot be opened or read.

    Example:
        >>> layer = paddle.nn.Linear(2, 2)
        >>> path = tmp_path / "linear.safetensors"
        >>> save_model(layer, path)
        >>> load_model(paddle.nn.Linear(2, 2), path)
        ([], [])
    """
    _check_layer(layer)
    state = _tensors(layer.state_dict(use_hook=False))
    with safe_open(filename, "paddle", device, backend=backend, max_header=max_header) as file:
        found = file.header.tensors
        missing, unexpected = match_state_dict(
            os.fspath(filename),
            {name: info.shape for name, info in found.items()},
            {name: tuple(tensor.shape) for name, tensor in state.items()},
            strict=strict,
            covered={name for group in _tied(state) if found.keys() & set(group) for name in group},
        )
        names = [name for name in found if name in state]
        loaded = file.get_tensors(names, progress=progress)
    for name, tensor in loaded.items():
        _check_kinds(os.fspath(filename), name, tensor, state[name])
    for name, tensor in loaded.items():
        target = state[name]
        same = tensor.dtype == target.dtype
        target.set_value(tensor if same else tensor.astype(target.dtype))
    return missing, unexpected


def _check_layer(layer: object) -> None:
    if not isinstance(layer, paddle.nn.Layer):
        raise InvalidInputError(f"expected a paddle.nn.Layer, got {type(layer).__name__}")


def _tensors(state: Mapping[str, Any]) -> dict[str, paddle.Tensor]:
    """The state dict without what layers keep in it besides tensors."""
    return {name: value for name, value in state.items() if isinstance(value, paddle.Tensor)}


def _tied(state: Mapping[str, paddle.Tensor]) -> list[list[str]]:
    """Groups of names that stand for one tensor: the same object, or the same memory."""
    groups: defaultdict[object, list[str]] = defaultdict(list)
    for name, tensor in state.items():
        key: object = id(tensor)
        if tensor.is_dense() and tensor._is_initialized() and 0 not in tensor.shape:
            address = (str(tensor.place), tensor.data_ptr())
            key = (address, tensor.dtype, tuple(tensor.shape), tuple(tensor.strides))
        groups[key].append(name)
    return [names for names in groups.values() if len(names) > 1]


def _check_kinds(location: str, name: str, tensor: paddle.Tensor, target: paddle.Tensor) -> None:
    """Refuse a conversion that would change more than the precision."""
    floating = tensor.is_floating_point() and target.is_floating_point()
    if tensor.dtype != target.dtype and not floating:
        raise InvalidInputError(
            f"{location}: tensor {name!r} is {tensor.dtype}, and the layer's is {target.dtype}: "
            "convert one of them with astype()"
        )
