"""Whole models: state dicts in which several names may stand for one tensor."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import torch

from safetensors_core import (
    MAX_HEADER,
    Dtype,
    InvalidInputError,
    StateDictError,
    match_state_dict,
    safe_open,
)
from safetensors_torch import save_file
from safetensors_torch.assignment import replacements, same_values, ties_of
from safetensors_torch.contents import Contents
from safetensors_torch.memory import is_wrapper, region
from safetensors_torch.renaming import names_after_hooks
from safetensors_torch.subclasses import check_option, flatten
from safetensors_torch.tied import Tie, drop_shared
from safetensors_torch.views import View

if TYPE_CHECKING:
    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend

__all__ = ["load_model", "save_model"]


def save_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    force_contiguous: bool = True,
    *,
    alignment: int = 8,
    fsync: bool = True,
    progress: Progress | None = None,
    subclasses: Literal["refuse", "flatten"] = "refuse",
) -> None:
    """Save a model whose parameters may be tied.

    Of names that share memory, one is saved: in alphabetical order, the first of whose tensor
    all others are views. The metadata maps every dropped name to the one that was kept. Where
    a dropped tensor is only a part of the other, or has another shape, dtype or order of
    dimensions, the entry ``safetensors_core.views`` says how it lies there. `load_model` and
    ``load_file(..., tied="expand")`` give the dropped names back.

    Args:
        model: Any module.
        filename: Path of the file.
        metadata: Strings by name to store in the header. An entry for a dropped name stays as
            it is; one for a record that this function writes is replaced.
        force_contiguous: Whether to pack tensors that are not contiguous; refused otherwise.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.
        subclasses: What to do with a tensor subclass that wraps other tensors: refuse it, or
            save its inner tensors as ``name.attribute`` and note in the metadata how to rebuild
            it.

    Raises:
        SharedMemoryError: Tensors overlap and none of them holds the others.
        InvalidInputError: A metadata value or a tensor cannot be saved, or the state dict holds
            more than tensors.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> tied[1].weight = tied[0].weight
        >>> path = tmp_path / "tied.safetensors"
        >>> save_model(tied, path)
        >>> with safe_open(path, "torch") as file:
        ...     file.keys(), file.metadata()
        (['0.bias', '0.weight', '1.bias'], {'1.weight': '0.weight'})
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {type(metadata).__name__}")
    check_option(subclasses)
    state, others = _state(model)
    if others:
        raise InvalidInputError(
            f"the model's state dict holds {_listed(others)}, which is no tensor and would be "
            "lost: save that in another way, and the tensors with save_file"
        )
    notes = metadata
    if subclasses == "flatten":
        state, notes = flatten(state, metadata)
    kept, notes = drop_shared(state, notes or {})
    if not force_contiguous:
        # What has no such order at all is refused with its own reason, once it is described.
        loose = sorted(n for n, t in kept.items() if region(t) and not t.is_contiguous())
        if loose:
            raise InvalidInputError(
                f"these tensors are not contiguous: {_listed(loose)}. Use force_contiguous=True "
                "to pack them"
            )
    # Empty metadata is stored only where it was asked for.
    stored = None if metadata is None and not notes else notes
    save_file(kept, filename, stored, alignment=alignment, fsync=fsync, progress=progress)


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: str | int | torch.device = "cpu",
    *,
    backend: Backend = "auto",
    dtype: str | Dtype | torch.dtype | None = None,
    max_header: int = MAX_HEADER,
    progress: Progress | None = None,
    assign: bool = False,
    rebuild: Iterable[type] = (),
) -> tuple[list[str], list[str]]:
    """Load a file into a model whose parameters may be tied.

    Names and shapes are compared before any data is read, and the model is changed only once
    all that it takes was read. What its modules rename on load, or do without, counts.

    If a file has several names of one tied tensor, they must have the same values. If they have
    not, all but one count as unexpected.

    Args:
        model: The module. Its tensors are overwritten in place, in their dtypes and on their
            devices, unless `assign` is given.
        filename: Path of the file.
        strict: Whether missing and unexpected names are an error.
        device: Where the file's tensors are loaded. With `assign`, they stay there.
        backend: ``"mmap"``, ``"pread"`` or ``"auto"``.
        dtype: What the file's floating-point tensors become while they are loaded, a few at a
            time: ``"bfloat16"``, ``"F16"``, a `torch.dtype`. With `assign` only; without, they
            become what the model has.
        max_header: Longest header to accept, in bytes.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.
        assign: Whether the file's tensors take the place of the model's, instead of being
            copied into them. The model may be on ``"meta"``, so that there is never a second
            copy. They have the dtypes of the file, or `dtype`, and borrow its map with
            ``backend="mmap"``. Tied parameters are one object again, views are views, and
            parameters require gradients if the model's did. What the file does not hold stays
            as it is: buffers that are not persistent, say, stay on ``"meta"``.
        rebuild: Classes of tensor subclasses that may be rebuilt, where the file has what
            ``subclasses="flatten"`` saved of them.

    Returns:
        Names of the model that the file lacks, and names of the file that the model lacks. A
        name that shares memory with a loaded one is not missing; of several that share memory
        and that the file lacks, one is.

    Raises:
        StateDictError: Names or shapes do not match; the model is unchanged, unless it does not
            load names that its own state dict has.
        InvalidInputError: A tensor cannot be assigned, rebuilt or converted, or the model is on
            ``"meta"`` or `dtype` is given, and `assign` is not; the model is unchanged.
        HeaderError: The file is not a valid safetensors file.
        OSError: The file cannot be opened or read.

    Example:
        >>> path = tmp_path / "linear.safetensors"
        >>> save_model(torch.nn.Linear(2, 2), path)
        >>> load_model(torch.nn.Linear(2, 2), path)
        ([], [])
        >>> model = torch.nn.Linear(2, 2, device="meta")
        >>> load_model(model, path, assign=True)
        ([], [])
        >>> model.weight.device
        device(type='cpu')
    """
    state, extra = _state(model)
    if dtype is not None and not assign:
        raise InvalidInputError(
            f"dtype={str(dtype)!r} needs assign=True: without it, the values are copied into the "
            "model's tensors and take their dtypes"
        )
    dtype = None if dtype is None else str(dtype)
    location = os.fspath(filename)
    with safe_open(filename, "torch", device, backend=backend, max_header=max_header) as file:
        contents = Contents(file.header, location, rebuild=rebuild)
        shapes = {name: contents.shape(name) for name in contents.names}
        ties = ties_of(state, shapes)
        try:
            found = _match(model, location, shapes, state, ties, extra=extra, strict=strict)
        except StateDictError as error:
            raise _advised(error, contents.not_rebuilt(file.header.metadata)) from None
        missing, unexpected = found
        names = [name for name in contents.names if name not in unexpected]
        if not assign:
            _check_memory(state, names)
        if dtype is not None:
            contents.check_conversion(names)
        stored = file.get_tensors(contents.stored(names), dtype=dtype, progress=progress)
        loaded = contents.restore(names, stored)
    others = _drop_repeated(loaded, ties)
    if others and strict:
        raise _contradiction(location, missing, others)
    # A class may have a `load_state_dict` of its own, without `assign` or without a result.
    options: dict[str, bool] = {}
    if assign:
        loaded, options = replacements(state, loaded, ties), {"assign": True}
    result = model.load_state_dict(loaded, strict=False, **options)
    # Names of the model's state dict that it does not load, as where a hook renames only there.
    refused = getattr(result, "unexpected_keys", [])
    if refused and strict:
        raise StateDictError(location, missing, sorted(refused), {})
    return missing, sorted([*unexpected, *others, *refused])


def _state(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a state dict, and the names of what modules keep in it besides."""
    if not isinstance(model, torch.nn.Module):
        raise InvalidInputError(f"expected a torch.nn.Module, got {type(model).__name__}")
    # Not detached: one parameter under two names is then one object.
    state = model.state_dict(keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return tensors, sorted(state.keys() - tensors.keys())


def _check_memory(state: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """Refuse to copy into tensors that have no memory, which torch would pass over."""
    empty = [name for name in names if name in state and state[name].is_meta]
    if empty:
        raise InvalidInputError(
            f"the model is on the 'meta' device, where {_listed(empty)} cannot hold values: pass "
            "assign=True to put the file's tensors in the place of the model's"
        )


def _advised(error: StateDictError, classes: list[str]) -> StateDictError:
    """The error, with advice where the file holds parts of tensor subclasses."""
    if classes:
        advice = (
            f"tensors that were taken apart, of {_listed(classes)}: pass these as rebuild=[...]"
        )
        error.args = (f"{error}. The file holds {advice}",)
    return error


def _match(
    model: torch.nn.Module,
    location: str,
    shapes: Mapping[str, tuple[int, ...]],
    state: Mapping[str, torch.Tensor],
    ties: Iterable[Tie],
    *,
    extra: list[str],
    strict: bool,
) -> tuple[list[str], list[str]]:
    """Names that the file lacks, and names that the model lacks."""
    expected = {name: _shape(tensor, shapes.get(name, ())) for name, tensor in state.items()}
    # Where the name that is kept is missing, the others are not worth mentioning.
    covered = {name for tie in ties for name in tie.views if name != tie.kept}
    missing, unexpected = match_state_dict(
        location, shapes, expected, strict=False, covered=covered
    )
    names = sorted([*missing, *extra]), unexpected
    if names != ([], []):
        seen = names_after_hooks(model, shapes)
        if seen is not None:
            lacking, surplus = (set(part) for part in seen)
            names = sorted((lacking - covered) & set(names[0])), sorted(surplus & set(names[1]))
    if strict and names != ([], []):
        raise StateDictError(location, *names, {})
    return names


def _shape(tensor: torch.Tensor, in_file: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a model expects: any, where it has none before it runs."""
    return in_file if torch.nn.parameter.is_lazy(tensor) else tuple(tensor.shape)


def _drop_repeated(loaded: dict[str, torch.Tensor], ties: Iterable[Tie]) -> list[str]:
    """Take out what another name gives as well; the names whose values are not the same."""
    others = []
    for tie in ties:
        for name, view in tie.views.items():
            if name != tie.kept and name in loaded:
                tensor = loaded.pop(name)
                if not _is_view(tensor, view, loaded[tie.kept]):
                    others.append(name)
    return sorted(others)


def _is_view(tensor: torch.Tensor, view: View, whole: torch.Tensor) -> bool:
    """Whether a tensor is what a view of another one would be."""
    same = view == View.whole(whole.shape)
    if not same and (is_wrapper(whole) or (view.dtype and view.dtype is not tensor.dtype)):
        return False
    return same_values(tensor, view.of(whole))


def _contradiction(location: str, missing: list[str], others: Collection[str]) -> StateDictError:
    error = StateDictError(location, missing, sorted(others), {})
    advice = (
        "The model ties them to other names of the file, which have other values: load the file "
        "into a model without these ties, or use strict=False to load one of each"
    )
    error.args = (f"{error}. {advice}",)
    return error


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more
