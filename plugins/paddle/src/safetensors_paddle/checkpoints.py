"""The files of `paddle.save`, read with NumPy alone: ``.pdparams`` and ``.pdopt``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from safetensors_core import ConversionError, SafetensorError, UnsupportedDtypeError
from safetensors_core.convert import ForeignCheckpoint, StoredTensor, load_pickle
from safetensors_paddle.pickled import STAND_INS, PickledArray, PickledScalar

__all__ = ["read_binary", "read_pickle"]

_NAME_TABLE = "StructuredToParameterName@@"
_SPLIT = "UnpackBigParamInfor@@"
# A pickle may say the same thing in many places, and so become larger than any file.
_DEEPEST = 32
_MOST_VALUES = 2**20
_MOST_TEXT = 100_000_000  # characters: no header may hold more names
_OPTIMIZER = re.compile(r"opt(im(izer)?)?s?(_?state)?s?(_?dict)?", re.IGNORECASE)
_OPTIMIZER_KEYS = ("LR_Scheduler", "master_weights")


def read_binary(path: str | os.PathLike[str]) -> ForeignCheckpoint:
    """Refuse a file in the binary format of Paddle's programs.

    Args:
        path: The file.

    Raises:
        ConversionError: Always: the names of its tensors are in another file, in a program.

    Example:
        >>> read_binary("a.pdiparams")
        Traceback (most recent call last):
        safetensors_core.errors.ConversionError: a.pdiparams: this is Paddle's binary format, ...
    """
    raise ConversionError(
        "this is Paddle's binary format, which holds no names: load it with paddle.jit.load() or "
        "paddle.load(), and save the state dict with paddle.save()",
        os.fsdecode(path),
    )


def read_pickle(path: str | os.PathLike[str], optimizer: bool = False) -> ForeignCheckpoint | None:
    """Read a file that `paddle.save` wrote as a pickle. Neither runs nor imports Paddle.

    Dicts and lists in it are gone through; the names of their tensors are joined with dots. The
    whole file is in memory until the checkpoint is let go of; of protocol 2, which has no bytes,
    twice as much while it is read.

    Args:
        path: The file. With the suffix ``.pdopt`` all of it is the state of an optimizer.
        optimizer: Whether the state of optimizers is wanted.

    Returns:
        Its tensors, as NumPy arrays; None if it is a pickle without any. Those of a dtype that the
        format lacks are refused.

    Raises:
        UnsafeCheckpointError: It asks for what weights do not need; nothing of it was run.
        ConversionError: It is damaged, or holds the state of an optimizer that is not wanted, and
            nothing else.
        OSError: It cannot be read.

    Example:
        >>> import pickle
        >>> _ = (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"w": np.ones(2)}, 4))
        >>> list(read_pickle(tmp_path / "a.pdparams").tensors)
        ['w']
    """
    location = os.fsdecode(path)
    with open(path, "rb") as file:
        content = load_pickle(file, location, STAND_INS)
    names = None
    if isinstance(content, dict):
        content = _joined(content, location)
        table = content.pop(_NAME_TABLE, None)
        names = table if isinstance(table, dict) else None
    walk = _Walk(location, optimizer)
    walk.visit(content, (), optimizer_state=location.lower().endswith(".pdopt"))
    if not walk.arrays and walk.found_optimizer and not optimizer:
        raise ConversionError(
            "it holds the state of an optimizer and no weights; ask for it with optimizer=True or "
            "--optimizer",
            location,
        )
    if not walk.arrays and not walk.found_optimizer and names is None:
        return None
    if names is not None:
        walk.left_out[_NAME_TABLE] = "the names of the parameters within Paddle"
    return ForeignCheckpoint(
        _tensors(walk, names),
        framework="numpy",
        format="pd",
        metadata=walk.metadata,
        left_out=walk.left_out,
        refused=walk.refused,
    )


class _Found(NamedTuple):
    """An array of a checkpoint.

    Attributes:
        array: Itself.
        named: Whether the name that its tensor had within Paddle stood beside it.
    """

    array: PickledArray
    named: bool


@dataclass
class _Walk:
    """All that is in a checkpoint, by its name."""

    location: str
    optimizer: bool
    arrays: dict[str, _Found] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: dict[str, SafetensorError] = field(default_factory=dict)
    found_optimizer: bool = False
    values: int = 0
    text: int = 0

    def visit(self, value: Any, path: tuple[str, ...], *, optimizer_state: bool = False) -> None:
        self.values += 1
        if self.values > _MOST_VALUES or len(path) > _DEEPEST:
            raise ConversionError(
                f"it holds more than {_MOST_VALUES:,} values, or lists in lists deeper than "
                f"{_DEEPEST}",
                self.location,
            )
        name = ".".join(path)
        self.text += len(name)
        if self.text > _MOST_TEXT:
            raise ConversionError(
                f"its names have more than {_MOST_TEXT:,} characters", self.location
            )
        match value:
            case PickledScalar():
                self._number(value, name)
            case PickledArray():
                self._add(name or _stem(self.location), _Found(value, named=False))
            case (str() as own, PickledArray() as array) if isinstance(value, tuple):
                self._add(name or own, _Found(array, named=True))
            case dict():
                self._mapping(value, path, optimizer_state=optimizer_state)
            case list() | tuple():
                for index, inner in enumerate(value):
                    self.visit(inner, (*path, str(index)))
            case int() if value.bit_length() > 64:  # which Python may refuse to write down
                self.left_out[name] = "int, not a tensor"
            case str() | int() | float():
                self.metadata[name] = str(value)
            case _:
                self.left_out[name] = f"{type(value).__name__}, not a tensor"

    def _mapping(
        self, value: dict[Any, Any], path: tuple[str, ...], *, optimizer_state: bool
    ) -> None:
        if optimizer_state or _is_optimizer_state(value, path):
            self.found_optimizer = True
            if not self.optimizer:
                for name in [".".join(path)] if path else map(str, value):
                    self.left_out[name] = "optimizer state"
                return
        for key, inner in value.items():
            if not isinstance(key, (str, int)):
                raise ConversionError(
                    f"a {type(key).__name__} cannot be part of the name of a tensor", self.location
                )
            self.visit(inner, (*path, str(key)))

    def _number(self, value: PickledScalar, name: str) -> None:
        try:
            value.check(name, self.location)
        except UnsupportedDtypeError as error:
            self.left_out[name] = f"a number of dtype {error.dtype}, not a tensor"
        else:
            self.metadata[name] = str(value.read(bfloat16=False).item())

    def _add(self, name: str, found: _Found) -> None:
        if name in self.arrays:
            raise ConversionError(f"two tensors in it have the name {name!r}", self.location)
        self.arrays[name] = found


def _stem(location: str) -> str:
    return os.path.splitext(os.path.basename(location))[0]


def _is_optimizer_state(value: dict[Any, Any], path: tuple[str, ...]) -> bool:
    if path and _OPTIMIZER.fullmatch(path[-1]):
        return True
    return any(key in value for key in _OPTIMIZER_KEYS)


def _tensors(walk: _Walk, names: dict[Any, Any] | None) -> dict[str, StoredTensor]:
    # Paddle saves bfloat16 as uint16, and takes one for the other where it makes tensors again.
    # Which arrays were none, but NumPy's own, is told as `paddle.load` tells it.
    with_names = any(found.named for found in walk.arrays.values())
    tensors = {}
    for name, (array, named) in walk.arrays.items():
        is_paddle = name in names if names is not None else named or not with_names
        try:
            array.check(name, walk.location)
        except UnsupportedDtypeError as error:
            walk.refused[name] = error.with_traceback(None)  # whose frames would hold the file
        else:
            tensors[name] = _stored(array, bfloat16=is_paddle)
    return tensors


def _stored(array: PickledArray, *, bfloat16: bool) -> StoredTensor:
    return StoredTensor(
        array.spec(bfloat16), lambda: array.read(bfloat16), array.chunks(), key=(array, bfloat16)
    )


def _joined(content: dict[Any, Any], location: str) -> dict[Any, Any]:
    """A dict with the arrays in one piece that Paddle splits, for protocols before 4."""
    content = dict(content)
    split = content.pop(_SPLIT, {})
    try:
        for name, told in split.items():
            # A name that is no text could be a tuple in a tuple and so on, whose hash ends Python.
            parts = [content.pop(part) for part in told["slices"] if type(part) is str]
            content[name] = _join(parts, told["OriginShape"], location)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ConversionError(
            "what it says about the parts of its large arrays is damaged", location
        ) from None
    return content


def _join(parts: list[Any], shape: Any, location: str) -> PickledArray:
    for part in parts:
        if not isinstance(part, PickledArray):
            raise TypeError
        part.check("a part of a large array", location)
        first = parts[0].dtype
        if (part.dtype.code, part.dtype.order, part.order) != (first.code, first.order, "C"):
            raise TypeError
    whole = PickledArray(parts[0].dtype, shape, [data for part in parts for data in part.parts])
    whole.check("a large array", location)
    return whole
