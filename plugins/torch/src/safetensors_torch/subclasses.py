"""Tensor subclasses that wrap other tensors: taken apart to be saved, rebuilt if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from safetensors_core import HeaderError, InvalidInputError, Reason
from safetensors_torch.memory import is_wrapper
from safetensors_torch.plain import decode, encode, parse_record, sizes

__all__ = [
    "SUBCLASSES_KEY",
    "Wrapper",
    "allowed_classes",
    "check_option",
    "class_name",
    "flatten",
    "read_wrappers",
]

#: Metadata that says of which inner tensors a wrapper is to be rebuilt.
SUBCLASSES_KEY = "safetensors_core.subclasses"


class Wrapper(NamedTuple):
    """What a file says of a tensor that was taken apart.

    Attributes:
        kind: Full name of its class. It is compared, and never looked up.
        inner: Names of its inner tensors: in the class, and in the file.
        shape: Its shape.
        stride: Its strides, in elements.
        context: What else the class needs, as JSON has it.

    Example:
        >>> Wrapper("mine.Scaled", {"data": "w.data"}, (2,), (1,), None).inner
        {'data': 'w.data'}
    """

    kind: str
    inner: Mapping[str, str]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    context: Any

    def rebuild(self, kind: type, inner: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensor, made by its class.

        Args:
            kind: The class.
            inner: The inner tensors by their name in the class.

        Raises:
            InvalidInputError: The class does not make such a tensor of them.

        Example:
            >>> from torch.testing._internal.two_tensor import TwoTensor
            >>> wrapper = Wrapper("TwoTensor", {"a": "w.a", "b": "w.b"}, (2,), (1,), None)
            >>> wrapper.rebuild(TwoTensor, {"a": torch.zeros(2), "b": torch.ones(2)}).b
            tensor([1., 1.])
        """
        try:
            made: Any = kind.__tensor_unflatten__(  # type: ignore[attr-defined]
                dict(inner), decode(self.context), torch.Size(self.shape), self.stride
            )
        # Whatever the class raises: a file can hold any context and any inner tensors.
        except Exception as error:
            raise InvalidInputError(
                f"{self.kind} cannot be rebuilt of what the file holds: {error!r:.500}"
            ) from error
        if (
            not isinstance(made, torch.Tensor)
            or type(made) is not kind
            or tuple(made.shape) != self.shape
        ):
            raise InvalidInputError(
                f"{self.kind} made a {type(made).__name__} and no tensor of its own with shape "
                f"{list(self.shape)}"
            )
        return made


def class_name(kind: type) -> str:
    """The full name under which a class is recorded.

    Example:
        >>> class_name(torch.nn.Parameter)
        'torch.nn.parameter.Parameter'
    """
    return f"{kind.__module__}.{kind.__qualname__}"


def allowed_classes(rebuild: Iterable[type]) -> dict[str, type]:
    """Classes that may be rebuilt, by their full names.

    Args:
        rebuild: Subclasses of `torch.Tensor` that have ``__tensor_unflatten__``.

    Raises:
        InvalidInputError: Something else is among them.

    Example:
        >>> from torch.testing._internal.two_tensor import TwoTensor
        >>> list(allowed_classes([TwoTensor]))
        ['torch.testing._internal.two_tensor.TwoTensor']
    """
    given: Any = rebuild
    kinds: list[Any] = list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(kind, type) and hasattr(kind, "__tensor_unflatten__") for kind in kinds):
        raise InvalidInputError(
            "rebuild must be classes that have __tensor_unflatten__, in a list or tuple: got "
            f"{given!r}"
        )
    return {class_name(kind): kind for kind in kinds}


def check_option(subclasses: str) -> None:
    """Refuse what is no way to save wrappers.

    Args:
        subclasses: ``"refuse"`` or ``"flatten"``.

    Raises:
        InvalidInputError: It is neither.

    Example:
        >>> check_option("flatten")
    """
    if subclasses not in ("refuse", "flatten"):
        raise InvalidInputError(f"subclasses must be 'refuse' or 'flatten', got {subclasses!r}")


def flatten(
    tensors: Mapping[str, Any], metadata: Mapping[str, str] | None
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Replace wrappers by their inner tensors, and note in the metadata how to rebuild them.

    Args:
        tensors: Tensors by name. Not changed.
        metadata: Strings to store. Not changed.

    Returns:
        Plain tensors, those of a wrapper as ``name.attribute``, and the metadata.

    Raises:
        InvalidInputError: A wrapper cannot be taken apart, a name is taken, or the class's
            context is more than plain data.

    Example:
        >>> from torch.testing._internal.two_tensor import TwoTensor
        >>> flat, notes = flatten({"w": TwoTensor(torch.zeros(2), torch.ones(2))}, None)
        >>> list(flat)
        ['w.a', 'w.b']
        >>> notes["safetensors_core.subclasses"][:40]
        '{"w":{"class":"torch.testing._internal.t'
    """
    if not isinstance(tensors, Mapping):
        raise InvalidInputError(
            f"expected tensors by name in a mapping, got {type(tensors).__name__}"
        )
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {type(metadata).__name__}")
    flat: dict[str, Any] = {}
    record: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and is_wrapper(tensor):
            for inner_name, inner in _plain_parts(name, tensor, record).items():
                if inner_name in tensors or inner_name in flat:
                    raise InvalidInputError(
                        f"tensor {name!r}: its inner tensor would be saved as {inner_name!r}, "
                        "which is the name of another tensor: rename one of them"
                    )
                flat[inner_name] = inner
        else:
            flat[name] = tensor
    notes = None if metadata is None else {k: metadata[k] for k in metadata if k != SUBCLASSES_KEY}
    if record:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
        notes = {**(notes or {}), SUBCLASSES_KEY: text}
    return flat, notes


def _plain_parts(
    name: str, tensor: torch.Tensor, record: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """The inner tensors of a wrapper, and those of the wrappers among them."""
    kind = type(tensor)
    if not hasattr(kind, "__tensor_flatten__") or not hasattr(kind, "__tensor_unflatten__"):
        raise InvalidInputError(
            f"tensor {name!r}: {class_name(kind)} has no __tensor_flatten__ and "
            "__tensor_unflatten__, by which it could be taken apart and rebuilt: save the plain "
            "tensors inside of it, or what makes a plain tensor of it"
        )
    attributes, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    if not all(type(size) is int for size in (*shape, *stride)):
        raise InvalidInputError(
            f"tensor {name!r}: {class_name(kind)} has a shape that is not made of numbers alone: "
            "save the plain tensors inside of it"
        )
    try:
        written = encode(context)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"tensor {name!r}: {error}. Save the plain tensors inside of it"
        ) from None
    record[name] = {
        "class": class_name(kind),
        "inner": list(attributes),
        "shape": list(shape),
        "stride": list(stride),
        "context": written,
    }
    parts: dict[str, torch.Tensor] = {}
    for attribute in attributes:
        inner = getattr(tensor, attribute)
        inner_name = f"{name}.{attribute}"
        if not attribute.isidentifier() or not isinstance(inner, torch.Tensor):
            raise InvalidInputError(
                f"tensor {name!r}: its inner {attribute!r} is a {type(inner).__name__}, where a "
                "tensor and a plain attribute were expected"
            )
        if is_wrapper(inner):
            parts.update(_plain_parts(inner_name, inner, record))
        else:
            parts[inner_name] = inner
    return parts


def read_wrappers(metadata: Mapping[str, str] | None, location: str) -> dict[str, Wrapper]:
    """What a file says of the tensors that were taken apart.

    Args:
        metadata: The file's metadata.
        location: The file, as errors show it.

    Returns:
        By name; a wrapper inside of another one comes before it.

    Raises:
        HeaderError: It is not valid.

    Example:
        >>> read_wrappers({"format": "pt"}, "model.safetensors")
        {}
    """
    text = (metadata or {}).get(SUBCLASSES_KEY)
    if text is None:
        return {}
    found = {}
    entries = parse_record(text, SUBCLASSES_KEY, location)
    # The name of an inner tensor is longer than that of the wrapper, always.
    for name in sorted(entries, key=len, reverse=True):
        wrapper = _read_wrapper(name, entries[name])
        if wrapper is None:
            raise HeaderError(
                Reason.INVALID_METADATA,
                f"metadata {SUBCLASSES_KEY!r} has no valid entry for {name!r}",
                tensor=name,
                location=location,
            )
        found[name] = wrapper
    return found


def _read_wrapper(name: str, entry: Any) -> Wrapper | None:
    if not isinstance(entry, dict) or "context" not in entry:
        return None
    kind, inner = entry.get("class"), entry.get("inner")
    shape, stride = sizes(entry.get("shape")), sizes(entry.get("stride"))
    if not isinstance(kind, str) or not isinstance(inner, list):
        return None
    # Without dots, so that no tensor is inside of two wrappers.
    if not inner or not all(isinstance(item, str) and item.isidentifier() for item in inner):
        return None
    if shape is None or stride is None or len(shape) != len(stride):
        return None
    names = {attribute: f"{name}.{attribute}" for attribute in inner}
    return Wrapper(kind, names, shape, stride, entry["context"])
