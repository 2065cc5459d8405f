"""Whole Keras models, by the paths of their variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from safetensors_core import (
    MAX_HEADER,
    Dtype,
    InvalidInputError,
    match_state_dict,
    safe_open,
    save_file,
)
from safetensors_numpy.framework import NumpyFramework

if TYPE_CHECKING:
    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend

__all__ = ["load_model", "save_model"]


def save_model(
    model: keras.Layer,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    progress: Progress | None = None,
) -> None:
    """Save the weights of a Keras model, each under the path of its variable.

    Saved is what `model.weights` lists: trainable variables, and others such as the statistics
    of a normalization. The state of random generators, of metrics and of the optimizer is not.
    A variable that several layers share is saved once.

    Args:
        model: A model or layer of Keras 3 that is built.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: The model is not built, two of its variables have one path, or
            something cannot be saved.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense(2, name="head")
        >>> model = keras.Sequential([keras.Input((3,)), dense], name="net")
        >>> save_model(model, tmp_path / "net.safetensors")
        >>> from safetensors_core import read_header
        >>> sorted(read_header(tmp_path / "net.safetensors").tensors)
        ['net/head/bias', 'net/head/kernel']
    """
    values = {path: variable.value for path, variable in _weights(model).items()}
    save_file(values, filename, metadata, alignment=alignment, fsync=fsync, progress=progress)


def load_model(
    model: keras.Layer,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: Any = "cpu",
    *,
    backend: Backend = "auto",
    max_header: int = MAX_HEADER,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Load a file into a Keras model, by the paths of its variables.

    Only tensors that the model has are read. Values are converted to the dtypes of the model's
    variables: fractions to any precision, and integers to types that hold them all.

    Args:
        model: A model or layer of Keras 3 that is built; its variables get new values.
        filename: Path of the file.
        strict: Whether missing and unexpected names are an error.
        device: Where the file's tensors are loaded before they are assigned.
        backend: ``"mmap"``, ``"pread"`` or ``"auto"``.
        max_header: Longest header to accept, in bytes.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Paths of the model that the file lacks, and names of the file that the model lacks.

    Raises:
        InvalidInputError: The model is not built, two of its variables have one path, or a
            number cannot become one of the model's kind. The model is unchanged.
        StateDictError: Names or shapes do not match; the model is unchanged.
        HeaderError: The file is not a valid safetensors file.
        OSError: The file cannot be opened or read.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense(2, name="head")
        >>> model = keras.Sequential([keras.Input((3,)), dense], name="net")
        >>> save_model(model, tmp_path / "net.safetensors")
        >>> load_model(model, tmp_path / "net.safetensors")
        ([], [])
    """
    weights = _weights(model)
    # Keras and the plugins give the frameworks the same names.
    framework = keras.backend.backend()
    with safe_open(filename, framework, device, backend=backend, max_header=max_header) as file:
        infos = file.header.tensors
        missing, unexpected = match_state_dict(
            os.fspath(filename),
            {name: info.shape for name, info in infos.items()},
            {path: tuple(variable.shape) for path, variable in weights.items()},
            strict=strict,
        )
        needed = [name for name in infos if name in weights]
        for name in needed:
            _check_kind(name, infos[name].dtype, weights[name].dtype)
        values = file.get_tensors(needed, progress=progress)
    for name, value in values.items():
        weights[name].assign(value)
    return missing, unexpected


def _weights(model: keras.Layer) -> dict[str, keras.Variable]:
    """The variables of a model by path."""
    if not isinstance(model, keras.Layer):
        raise InvalidInputError(
            f"expected a model or layer of Keras 3, got {type(model).__module__}."
            f"{type(model).__qualname__}; of anything else, save and load its variables by name"
        )
    if not model.built:
        raise InvalidInputError(
            f"model {model.name!r} has no variables yet: build it with model.build(input_shape), "
            "or call it once on data"
        )
    weights: dict[str, keras.Variable] = {}
    for variable in model.weights:
        known = weights.setdefault(variable.path, variable)
        if known is not variable:
            raise InvalidInputError(
                f"two variables of model {model.name!r} have the path {variable.path!r}: give "
                "their layers different names"
            )
    return weights


def _check_kind(name: str, found: Dtype, expected: str) -> None:
    """Refuse a conversion that would change more than the precision of a fraction."""
    fractions = found.value.startswith(("F", "BF")) and "float" in expected
    if not fractions and not np.can_cast(NumpyFramework.dtypes[found], expected, "safe"):
        raise InvalidInputError(
            f"tensor {name!r}: {found} in the file cannot become {expected} in the model"
        )
