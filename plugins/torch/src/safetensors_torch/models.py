"""Whole models: state dicts in which several names may stand for one tensor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from safetensors_core import (
    MAX_HEADER,
    InvalidInputError,
    SharedMemoryError,
    match_state_dict,
)
from safetensors_torch import load_file, save_file
from safetensors_torch.sharing import memory_span, overlapping

if TYPE_CHECKING:
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
) -> None:
    """Save a model whose parameters may be tied.

    Of names that share memory, one is saved: the first whose tensor holds all the others. The
    metadata maps every dropped name to the one that was kept.

    Args:
        model: Any module.
        filename: Path of the file.
        metadata: Strings by name to store in the header.
        force_contiguous: Whether to pack tensors that are not contiguous; refused otherwise.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
        fsync: Whether to wait until the file is on disk.

    Raises:
        SharedMemoryError: Tensors overlap and none of them holds the others.
        InvalidInputError: A metadata value or a tensor cannot be saved.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> tied[1].weight = tied[0].weight
        >>> path = tmp_path / "tied.safetensors"
        >>> save_model(tied, path)
        >>> sorted(load_file(path))
        ['0.bias', '0.weight', '1.bias']
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {type(metadata).__name__}")
    state = _tensors(model)
    notes = dict(metadata or {})
    for kept, group in _kept_names(state).items():
        for name in group:
            if name != kept:
                notes.setdefault(name, kept)
                del state[name]
    if not force_contiguous:
        loose = sorted(name for name, tensor in state.items() if not tensor.is_contiguous())
        if loose:
            raise InvalidInputError(
                f"these tensors are not contiguous: {_listed(loose)}. Use force_contiguous=True "
                "to pack them"
            )
    # Empty metadata is stored only where it was asked for.
    stored = None if metadata is None and not notes else notes
    save_file(state, filename, stored, alignment=alignment, fsync=fsync)


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: str | int | torch.device = "cpu",
    *,
    backend: Backend = "auto",
    max_header: int = MAX_HEADER,
) -> tuple[list[str], list[str]]:
    """Load a file into a model whose parameters may be tied.

    Args:
        model: The module; its tensors are overwritten in place.
        filename: Path of the file.
        strict: Whether missing and unexpected names are an error.
        device: Where the file's tensors are loaded before they are copied into the model's.
        backend: ``"mmap"``, ``"pread"`` or ``"auto"``.
        max_header: Longest header to accept, in bytes.

    Returns:
        Names of the model that the file lacks, and names of the file that the model lacks. A
        name that shares memory with a loaded one is not missing.

    Raises:
        StateDictError: Names or shapes do not match; the model is unchanged.
        HeaderError: The file is not a valid safetensors file.
        OSError: The file cannot be opened or read.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> path = tmp_path / "linear.safetensors"
        >>> save_model(model, path)
        >>> load_model(torch.nn.Linear(2, 2), path)
        ([], [])
    """
    loaded = load_file(filename, device, backend=backend, max_header=max_header)
    state = _tensors(model)
    covered = set(loaded)
    for group in overlapping(state):
        kept = _holder(state, [name for name in group if name in loaded], group)
        if kept is not None:
            covered.update(group)
    missing, unexpected = match_state_dict(
        os.fspath(filename),
        {name: tuple(tensor.shape) for name, tensor in loaded.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        strict=strict,
        covered=covered,
    )
    model.load_state_dict(loaded, strict=False)
    return missing, unexpected


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without what modules keep in it besides tensors."""
    if not isinstance(model, torch.nn.Module):
        raise InvalidInputError(f"expected a torch.nn.Module, got {type(model).__name__}")
    state = model.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _kept_names(state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """For each group of overlapping tensors, the name that stands for all."""
    groups = {}
    for group in overlapping(state):
        kept = _holder(state, sorted(group), group)
        if kept is None:
            raise SharedMemoryError(
                [group], "None of them holds the others: clone() the tensors to save each"
            )
        groups[kept] = group
    return groups


def _holder(
    state: Mapping[str, torch.Tensor], candidates: Iterable[str], group: Iterable[str]
) -> str | None:
    """The first candidate whose memory holds that of the whole group, without holes."""
    spans = [memory_span(state[name]) for name in group]
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
    for name in candidates:
        tensor = state[name]
        if memory_span(tensor) == (begin, end) and tensor.nbytes == end - begin:
            return name
    return None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more
