"""Names that were dropped because another tensor holds their values, and how to get them back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from safetensors_core import HeaderError, Reason, SharedMemoryError, TensorInfo
from safetensors_torch.memory import region
from safetensors_torch.plain import dtype_named, parse_record, sizes
from safetensors_torch.sharing import overlapping
from safetensors_torch.views import View, view_within

__all__ = ["VIEWS_KEY", "Tie", "drop_shared", "dropped_names", "read_dropped", "tie_of"]

#: Metadata that says how a dropped tensor lies in the one that was kept, if not as it is.
VIEWS_KEY = "safetensors_core.views"

# Tensors of these have more than their bytes, which no view of other bytes gives them.
_QUANTISED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}


class Tie(NamedTuple):
    """Tensors of a model that share memory.

    Attributes:
        kept: The name that stands for all of them.
        views: By name, how each lies in a contiguous copy of the one that is kept.

    Example:
        >>> Tie("b", {"a": View((2,), (1,)), "b": View((4,), (1,))}).kept
        'b'
    """

    kept: str
    views: Mapping[str, View]


def tie_of(
    state: Mapping[str, torch.Tensor], candidates: Iterable[str], group: Iterable[str]
) -> Tie | None:
    """How a group of tensors is tied to the first of some of which all are views.

    Args:
        state: Tensors by name.
        candidates: Names to choose from, the first one first.
        group: Names of tensors that overlap.

    Returns:
        The tie; None where no candidate holds them all.

    Example:
        >>> whole = torch.zeros(4)
        >>> tie = tie_of({"a": whole[:2], "b": whole}, ["a", "b"], ["a", "b"])
        >>> tie.kept, tie.views["a"].shape
        ('b', (2,))
    """
    regions = {name: region(state[name]) for name in group}
    begin = min(place.begin for place in regions.values() if place)
    end = max(place.end for place in regions.values() if place)
    # One that repeats elements would be saved larger than the memory that it has.
    for name in sorted(candidates, key=lambda name: state[name].nbytes > end - begin):
        place = regions[name]
        if place is None or (place.begin, place.end) != (begin, end):
            continue
        views: dict[str, View] = {}
        for other in regions:
            view = view_within(state[name], state[other])
            if view is None:
                break
            views[other] = view
        else:
            return Tie(name, views)
    return None


def drop_shared(
    state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Keep one tensor of each group that shares memory, and note the others in the metadata.

    Args:
        state: Tensors by name.
        metadata: Strings to store; an entry for a name that is dropped stays as it is.

    Returns:
        The tensors that are left, and the metadata with the name that was kept for each that
        was dropped.

    Raises:
        SharedMemoryError: Tensors overlap and none of them holds the others.

    Example:
        >>> tied = torch.zeros(4)
        >>> kept, notes = drop_shared({"a": tied, "b": tied}, {})
        >>> list(kept), notes
        (['a'], {'b': 'a'})
    """
    kept = dict(state)
    notes = dict(metadata)
    notes.pop(VIEWS_KEY, None)  # of the file that the metadata came from
    views: dict[str, Any] = {}
    for group in overlapping(state):
        tie = tie_of(state, sorted(group), group)
        if tie is None:
            raise SharedMemoryError(
                [group], "None of them holds the others: clone() the tensors to save each"
            )
        whole = View.whole(state[tie.kept].shape)
        for name, view in tie.views.items():
            if name == tie.kept:
                continue
            del kept[name]
            if notes.setdefault(name, tie.kept) == tie.kept and view != whole:
                views[name] = _written(tie.kept, view)
    if views:
        notes[VIEWS_KEY] = json.dumps(views, sort_keys=True, separators=(",", ":"))
    return kept, notes


def dropped_names(
    infos: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None
) -> dict[str, str]:
    """The names that a file's metadata says were dropped, with the name kept for each.

    Args:
        infos: The tensors of the file.
        metadata: Its metadata. An entry counts if its value is the name of a tensor of the
            file, and its key is not.

    Example:
        >>> dropped_names({"a": None}, {"b": "a", "format": "pt", "a": "a"})
        {'b': 'a'}
    """
    return {
        name: kept
        for name, kept in (metadata or {}).items()
        if kept in infos and name not in infos and name != VIEWS_KEY
    }


def read_dropped(
    infos: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None, location: str
) -> dict[str, tuple[str, View | None]]:
    """The names that were dropped, and how they lie in the tensors that were kept.

    Args:
        infos: The tensors of the file.
        metadata: Its metadata.
        location: The file, as errors show it.

    Returns:
        By name, the name that was kept, and the view of it; None where it is the same.

    Raises:
        HeaderError: What the metadata says of a view is not valid, or the view does not lie in
            the tensor.

    Example:
        >>> read_dropped({"a": None}, {"b": "a"}, "model.safetensors")
        {'b': ('a', None)}
    """
    names = dropped_names(infos, metadata)
    found: dict[str, tuple[str, View | None]] = {name: (kept, None) for name, kept in names.items()}
    text = (metadata or {}).get(VIEWS_KEY)
    if text is None:
        return found
    for name, entry in parse_record(text, VIEWS_KEY, location).items():
        kept = names.get(name)
        if kept is None or (isinstance(entry, dict) and entry.get("of") != kept):
            continue  # written for another file, or the user had an entry of that name
        view = _read_view(entry)
        if view is None or not _lies_in(view, infos[kept]):
            raise HeaderError(
                Reason.INVALID_METADATA,
                f"metadata {VIEWS_KEY!r} has no valid view of {kept!r} for {name!r}",
                tensor=name,
                location=location,
            )
        found[name] = kept, view
    return found


def _written(of: str, view: View) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "of": of,
        "shape": list(view.shape),
        "stride": list(view.stride),
        "offset": view.offset,
    }
    if view.dtype is not None:
        entry["dtype"] = str(view.dtype).removeprefix("torch.")
    return entry


def _read_view(entry: Any) -> View | None:
    if not isinstance(entry, dict):
        return None
    shape, stride = sizes(entry.get("shape")), sizes(entry.get("stride"))
    offset = sizes([entry.get("offset")])
    dtype = dtype_named(entry["dtype"]) if "dtype" in entry else None
    if shape is None or stride is None or offset is None or len(shape) != len(stride):
        return None
    if "dtype" in entry and (dtype is None or dtype in _QUANTISED):
        return None
    return View(shape, stride, offset[0], dtype)


def _lies_in(view: View, info: TensorInfo) -> bool:
    """Whether a view ends before the tensor does, and torch can count its elements."""
    item = view.dtype.itemsize if view.dtype is not None else _item(info)
    last = view.offset
    elements = 1
    for size, stride in zip(view.shape, view.stride, strict=True):
        last += (size - 1) * stride
        elements *= size
        # At once: the product of all the sizes that a file can claim takes hours.
        if not 0 < elements < 2**63 // item:
            return False
    return last < info.nbytes // item


def _item(info: TensorInfo) -> int:
    """Bytes of an element as torch has it, which packs two of four bits into one."""
    return max(1, info.dtype.bits // 8)
