"""Values of torch as plain JSON and back, without ever looking anything up by a file's word."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch

from safetensors_core import HeaderError, InvalidInputError, Reason

__all__ = ["decode", "dtype_named", "encode", "parse_record", "sizes"]

_LARGEST = 2**63 - 1  # what torch can count
_DEEPEST = 64  # levels of a context, far fewer than those at which JSON is no longer read
_DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}


def parse_record(text: str, key: str, location: str) -> dict[str, Any]:
    """The JSON object in a file's metadata.

    Args:
        text: What the metadata has.
        key: Its key there.
        location: The file, as errors show it.

    Raises:
        HeaderError: It is no JSON object.

    Example:
        >>> parse_record('{"a": 1}', "key", "model.safetensors")
        {'a': 1}
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise HeaderError(
            Reason.INVALID_METADATA, f"metadata {key!r} is no JSON object", location=location
        )
    return found


def sizes(value: object) -> tuple[int, ...] | None:
    """A list of numbers as a shape, or None if it cannot be one.

    Example:
        >>> sizes([2, 3]), sizes([-1]), sizes([True])
        ((2, 3), None, None)
    """
    if not isinstance(value, list):
        return None
    if not all(type(size) is int and 0 <= size <= _LARGEST for size in value):
        return None
    return tuple(value)


def dtype_named(name: object) -> torch.dtype | None:
    """The dtype of a name without ``torch.``, or None if there is none.

    Example:
        >>> dtype_named("bfloat16"), dtype_named("nn")
        (torch.bfloat16, None)
    """
    return _DTYPES.get(name) if isinstance(name, str) else None


def encode(value: object) -> Any:
    """A value as JSON can hold it.

    Args:
        value: None, a bool, an int, a float, a str, a `torch.dtype`, `torch.Size` or
            `torch.device`, or a list, tuple or dict of these.

    Raises:
        InvalidInputError: It is, or holds, something else; or it is nested too deeply.

    Example:
        >>> encode((torch.int8, [1, 2]))
        {'tuple': [{'dtype': 'int8'}, [1, 2]]}
    """
    return _encode(value, _DEEPEST)


def _encode(value: object, levels: int) -> Any:
    """A value as JSON can hold it, with no more than some levels of lists, tuples and dicts."""
    if levels < 0:
        raise InvalidInputError("the context is nested too deeply, or holds itself")
    kind = type(value)  # exactly: an enum that is an int would come back as an int
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, float) and kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list) and kind is list:
        return [_encode(item, levels - 1) for item in value]
    if isinstance(value, tuple) and kind in (tuple, torch.Size):
        items = [_encode(item, levels - 1) for item in value]
        return {"size" if kind is torch.Size else "tuple": items}
    if isinstance(value, dict) and kind is dict:
        pairs = [[_encode(part, levels - 1) for part in pair] for pair in value.items()]
        return {"dict": pairs}
    if isinstance(value, (torch.dtype, torch.device)):
        return {kind.__name__: str(value).removeprefix("torch.")}
    raise InvalidInputError(
        f"the context of the subclass holds a {kind.__module__}.{kind.__qualname__}, which cannot "
        "be written as plain data"
    )


def decode(value: Any) -> Any:
    """The value that `encode` was given.

    Args:
        value: What came out of JSON.

    Raises:
        ValueError: `encode` gives no such thing.
        RecursionError: It is nested too deeply.

    Example:
        >>> decode({'tuple': [{'dtype': 'int8'}, [1, 2]]})
        (torch.int8, [1, 2])
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(kind, content)] = value.items()
        if kind in _DECODERS:
            try:
                return _DECODERS[kind](content)
            except (KeyError, TypeError, RuntimeError) as error:
                if isinstance(error, RecursionError):
                    raise
                raise ValueError(f"{content!r:.100} is no {kind}") from error
    raise ValueError(f"{value!r:.100} is no value of a known kind")


def _float(text: Any) -> float:
    return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[_string(text)]


def _string(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError
    return text


def _items(items: Any) -> list[Any]:
    if not isinstance(items, list):
        raise TypeError
    return [decode(item) for item in items]


def _dtype(name: Any) -> torch.dtype:
    found = dtype_named(name)
    if found is None:
        raise TypeError
    return found


def _dict(pairs: Any) -> dict[Any, Any]:
    found = {}
    for pair in pairs if isinstance(pairs, list) else [None]:
        key, item = _items(pair)
        found[key] = item
    return found


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "device": lambda name: torch.device(_string(name)),
    "dict": _dict,
    "dtype": _dtype,
    "float": _float,
    "size": lambda items: torch.Size(_items(items)),
    "tuple": lambda items: tuple(_items(items)),
}
