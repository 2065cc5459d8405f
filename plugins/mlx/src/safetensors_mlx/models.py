"""Whole models: the parameters of an `mlx.nn.Module`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_map_with_path

from safetensors_core import MAX_HEADER, InvalidInputError, match_state_dict, safe_open
from safetensors_mlx import save_file

if TYPE_CHECKING:
    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend

__all__ = ["load_model", "save_model"]


def save_model(
    model: nn.Module,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    progress: Progress | None = None,
) -> None:
    """Save all parameters of a model, frozen ones too.

    The names are those of ``model.save_weights``, such as ``layers.0.weight``, so that
    ``model.load_weights`` reads the file.

    Args:
        model: Any module.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: A metadata value or a parameter cannot be saved, or two parameters
            have one name.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> from mlx import nn
        >>> path = tmp_path / "linear.safetensors"
        >>> save_model(nn.Linear(2, 3), path)
        >>> sorted(mx.load(str(path)))
        ['bias', 'weight']
    """
    save_file(
        _parameters(model), filename, metadata, alignment=alignment, fsync=fsync, progress=progress
    )


def load_model(
    model: nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: str | mx.Device | mx.DeviceType | None = "cpu",
    *,
    backend: Backend = "auto",
    dtype: Any = None,
    max_header: int = MAX_HEADER,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Load a file into a model.

    Names and shapes are compared before anything is read, and only what the model has is read.
    The model's parameters are replaced by those of the file, which keep their own dtype, as
    with ``model.load_weights``, unless `dtype` is given.

    Args:
        model: The module.
        filename: Path of the file.
        strict: Whether missing and unexpected names are an error.
        device: Device that must be there; its memory is shared by all devices.
        backend: ``"mmap"``, ``"pread"`` or ``"auto"``.
        dtype: What floating-point arrays become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``. All others stay as they are.
        max_header: Longest header to accept, in bytes.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Names of the model that the file lacks, and names of the file that the model lacks.

    Raises:
        StateDictError: Names or shapes do not match; the model is unchanged, as with all errors.
        HeaderError: The file is not a valid safetensors file.
        UnsupportedDtypeError: MLX cannot represent a tensor exactly.
        OSError: The file cannot be opened or read.

    Example:
        >>> from mlx import nn
        >>> path = tmp_path / "linear.safetensors"
        >>> save_model(nn.Linear(2, 3), path)
        >>> load_model(nn.Linear(2, 3), path)
        ([], [])
    """
    parameters = _parameters(model)
    with safe_open(filename, "mlx", device, backend=backend, max_header=max_header) as file:
        found = file.header.tensors
        missing, unexpected = match_state_dict(
            os.fspath(filename),
            {name: info.shape for name, info in found.items()},
            {name: tuple(array.shape) for name, array in parameters.items()},
            strict=strict,
        )
        names = [name for name in found if name in parameters]
        loaded = file.get_tensors(names, dtype=dtype, progress=progress)

    def replace(name: str | None, current: Any) -> Any:
        return loaded.get(name or "", current)

    # Not with load_weights: from the names alone, it cannot tell a list from a dict whose keys
    # are numbers, and stops half-way.
    model.update(tree_map_with_path(replace, model.parameters()))
    return missing, unexpected


def _parameters(model: nn.Module) -> dict[str, mx.array]:
    """All parameters of a model under the names that MLX gives them."""
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"expected an mlx.nn.Module, got {type(model).__name__}")
    parameters: dict[str, mx.array] = {}
    for name, array in tree_flatten(model.parameters()):
        if name in parameters:
            raise InvalidInputError(
                f"two parameters of the model have the name {name!r}: a key with a dot in it "
                "reads like a path; rename one of them"
            )
        parameters[name] = array
    return parameters
