"""Reading a header exactly, to accept what the fast decoder cannot vouch for or name its fault.

The standard library's parser gives what a typed decoder hides: every repeated key and the very
text of every number. It costs a few times the fast path and is only taken for unusual headers.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from safetensors_core.dtypes import Dtype
from safetensors_core.errors import HeaderError, Reason

__all__ = ["read_header", "read_metadata"]

_U64 = re.compile(r"0|[1-9][0-9]{0,19}")
_U64_MAX = 2**64 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DEPTH = 127  # lists and objects inside each other, as the reference allows
_FIELDS = ("dtype", "shape", "data_offsets")

Entry = tuple[Dtype, tuple[int, ...], tuple[int, int]]


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object in order, repeated keys included."""


class _OtherNumber(str):
    """The text of a number that is not an unsigned 64-bit integer."""

    __slots__ = ()


def _integer(text: str) -> int | _OtherNumber:
    if _U64.fullmatch(text) and (value := int(text)) <= _U64_MAX:
        return value
    return _number(text)


def _number(text: str) -> _OtherNumber:
    if math.isinf(float(text)):
        raise HeaderError(
            Reason.INVALID_JSON, f"the header holds a number out of range: {text[:40]}"
        )
    return _OtherNumber(text)


def _constant(text: str) -> None:
    raise HeaderError(Reason.INVALID_JSON, f"the header holds {text}, which JSON does not allow")


_decoder = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_integer, parse_float=_number, parse_constant=_constant
)


def _parse(text: str, start: int) -> tuple[Any, int]:
    try:
        return _decoder.raw_decode(text, start)
    except RecursionError:
        raise HeaderError(Reason.TOO_DEEP, "the header nests too deeply") from None
    except json.JSONDecodeError as error:
        raise HeaderError(
            Reason.INVALID_JSON, f"the header is not JSON: {error.msg} at its byte {error.pos}"
        ) from None


def read_metadata(text: str, start: int) -> tuple[dict[str, str] | None, int]:
    """Read the value of a `__metadata__` entry.

    Args:
        text: The header.
        start: Where the value begins in it.

    Returns:
        The metadata and the position after it.

    Raises:
        HeaderError: It is not an object of strings.

    Example:
        >>> read_metadata('{"__metadata__":{"format":"pt"}}', 16)
        ({'format': 'pt'}, 31)
    """
    value, end = _parse(text, start)
    return _metadata(value), end


def read_header(text: str) -> tuple[dict[str, Entry], dict[str, str] | None]:
    """Read the fields of every entry of a header.

    Args:
        text: The header with its padding.

    Returns:
        Dtype, shape and offsets by name, and the metadata or None.

    Raises:
        HeaderError: The header breaks a rule that concerns a single entry.

    Example:
        >>> read_header('{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"note":"x"}}')[0]
        {'w': (<Dtype.U8: 'U8'>, (2,), (0, 2))}
    """
    members, end = _parse(text, 0)
    rest = text[end:].lstrip(" \t\n\r")
    if rest:
        raise HeaderError(
            Reason.INVALID_JSON, f"the header goes on after its closing brace: {rest[:20]!r}"
        )
    metadata: dict[str, str] | None = None
    entries: dict[str, Entry] = {}
    seen_metadata = False
    for name, value in members:
        _check_text(name)
        if name == "__metadata__":
            if seen_metadata:
                raise HeaderError(
                    Reason.DUPLICATE_METADATA, "the header holds '__metadata__' more than once"
                )
            seen_metadata = True
            metadata = _metadata(value)
        elif name in entries:
            raise HeaderError(
                Reason.DUPLICATE_NAME, f"tensor {name!r} occurs more than once", tensor=name
            )
        else:
            entries[name] = _entry(name, value)
    return entries, metadata


def _check_text(text: str) -> None:
    if not text.isascii() and _SURROGATE.search(text):
        raise HeaderError(
            Reason.LONE_SURROGATE, f"the header holds a lone surrogate in {text[:80]!a}"
        )


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, _Pairs):
        raise HeaderError(Reason.INVALID_METADATA, "'__metadata__' must be an object of strings")
    for key, item in value:
        _check_text(key)
        if type(item) is not str:
            raise HeaderError(
                Reason.INVALID_METADATA, f"the value of metadata {key!r} must be a string"
            )
        _check_text(item)
    return dict(value)


def _entry(name: str, value: object) -> Entry:
    if not isinstance(value, _Pairs):
        raise HeaderError(
            Reason.INVALID_ENTRY,
            f"tensor {name!r}: its entry must be an object with dtype, shape and data_offsets",
            tensor=name,
        )
    fields: dict[str, Any] = {}
    for key, item in value:
        if key not in _FIELDS:
            _check_text(key)
            _check_ignored(item)
        elif key in fields:
            raise HeaderError(
                Reason.DUPLICATE_FIELD,
                f"tensor {name!r}: field {key!r} occurs more than once",
                tensor=name,
            )
        else:
            fields[key] = item
    for key in _FIELDS:
        if key not in fields:
            raise HeaderError(
                Reason.MISSING_FIELD, f"tensor {name!r}: field {key!r} is missing", tensor=name
            )
    return (
        _dtype(name, fields["dtype"]),
        tuple(_integers(name, "shape", fields["shape"], Reason.INVALID_SHAPE)),
        _offsets(name, fields["data_offsets"]),
    )


def _dtype(name: str, value: object) -> Dtype:
    try:
        if type(value) is str:
            return Dtype(value)
    except ValueError:
        pass
    raise HeaderError(
        Reason.UNKNOWN_DTYPE,
        f"tensor {name!r}: dtype {_brief(value)} is not one of the format's ({', '.join(Dtype)})",
        tensor=name,
    )


def _offsets(name: str, value: object) -> tuple[int, int]:
    integers = _integers(name, "data_offsets", value, Reason.INVALID_OFFSETS)
    if len(integers) != 2:
        raise HeaderError(
            Reason.INVALID_OFFSETS,
            f"tensor {name!r}: data_offsets must be a pair, found {len(integers)} numbers",
            tensor=name,
        )
    return integers[0], integers[1]


def _integers(name: str, field: str, value: object, reason: Reason) -> list[int]:
    if type(value) is not list:
        raise HeaderError(
            reason, f"tensor {name!r}: {field} must be a list, found {_brief(value)}", tensor=name
        )
    for item in value:
        if type(item) is not int:
            raise HeaderError(
                reason,
                f"tensor {name!r}: {field} holds {_brief(item)}, which is not an unsigned "
                "64-bit integer",
                tensor=name,
            )
    return value


def _brief(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, _Pairs):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = str(value)[:40]
    return text if isinstance(value, (int, _OtherNumber)) else ascii(text)


def _check_ignored(value: object) -> None:
    """Check what the format makes no use of: the text must still be valid, the nesting bounded."""
    level = [value]
    depth = 2  # the header and the entry
    while level:
        depth += any(isinstance(item, list) for item in level)
        if depth > _MAX_DEPTH:
            raise HeaderError(
                Reason.TOO_DEEP, f"the header nests more than {_MAX_DEPTH} levels deep"
            )
        inner: list[object] = []
        for item in level:
            if isinstance(item, _Pairs):
                for key, member in item:
                    _check_text(key)
                    inner.append(member)
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, str):
                _check_text(item)
        level = inner
