"""Which values of a checkpoint are weights, and the names that they get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from safetensors_core import ConversionError, SafetensorError
from safetensors_core.convert import Opaque
from safetensors_torch.checkpoints.rebuilding import Refused, TensorRecord

__all__ = ["WRAPPERS", "Named", "name_tensors"]

#: The keys under which training programs keep the weights, in the order in which they are tried.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params", "net", "weights")

_LONE = "tensor"  # the name of a tensor that was saved alone
_OPTIMIZER = "optimizer"
_OPTIMIZER_KEYS = {"state", "param_groups"}
_DEEPEST = 100
_MOST_TEXT = 100_000_000  # characters: no header may hold more names
_PLAIN = (str, int, float, bool)


@dataclass
class Named:
    """What the values of a checkpoint are.

    Attributes:
        tensors: The weights by name, in the order of the file.
        metadata: Plain values that lie beside the weights.
        left_out: The others by name, with the reason.
        refused: Tensors that cannot be converted, by name, with the error that says why.

    Example:
        >>> Named().tensors
        {}
    """

    tensors: dict[str, TensorRecord] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: dict[str, SafetensorError] = field(default_factory=dict)


def name_tensors(root: Any, location: str, *, optimizer: bool, most: int) -> Named:
    """Tell the weights of a checkpoint from the rest, and name them.

    Weights that a training program keeps under one of `WRAPPERS` get the names that they have
    there. Dicts and lists inside of each other become names with dots.

    Args:
        root: What the pickle holds.
        location: The file as errors show it.
        optimizer: Whether the state of an optimizer is wanted, too, as ``optimizer.`` and so on.
        most: Values to look at: a pickle can refer to one dict again and again.

    Raises:
        ConversionError: It holds no tensors, or two of one name.

    Example:
        >>> import torch
        >>> from safetensors_torch.checkpoints.rebuilding import Storage
        >>> weight = TensorRecord(Storage("0", torch.float32, 2), torch.float32, 0, (2,), (1,))
        >>> found = name_tensors({"epoch": 3, "model": {"w": weight}}, "", optimizer=False, most=9)
        >>> list(found.tensors), found.metadata
        (['w'], {'epoch': '3'})
    """
    return _Naming(location, optimizer, most).run(root)


class _Naming:
    def __init__(self, location: str, optimizer: bool, most: int) -> None:
        self.location = location
        self.optimizer = optimizer
        self.left = most
        self.holding: dict[int, bool] = {}  # whether there are tensors in a value, by its identity
        self.named = Named()
        self.text = 0

    def run(self, root: Any) -> Named:
        if isinstance(root, TensorRecord | Refused):
            root = {_LONE: root}
        if _is_optimizer(root):
            root = {_OPTIMIZER: root}
        if not isinstance(root, dict | list | tuple):
            raise self.error(f"it holds {_kind(root)}, and no tensors")
        entries = {self.checked(name): value for name, value in _entries(root)}
        if len(entries) < len(root):
            raise self.error("two of its keys are the same once they are texts")
        states = [name for name, value in entries.items() if _is_optimizer_entry(name, value)]
        wrapper = next((name for name in WRAPPERS if self.is_wrapper(entries.get(name))), None)
        for name, value in entries.items():
            if name in states:
                self.add_optimizer(name, value, alone=len(states) == 1)
            elif name == wrapper:
                self.add("", value)
            elif type(value) in _PLAIN:
                self.named.metadata[name] = self.checked(str(value))
            elif wrapper is None:
                self.add(name, value)
            else:
                self.named.left_out[name] = f"lies beside {wrapper!r}, which holds the weights"
        if not self.named.tensors and not self.named.refused:
            raise self.error(
                "it holds the state of an optimizer and no weights; ask for it with "
                "optimizer=True or --optimizer"
                if states and not self.optimizer
                else "it holds no tensors"
            )
        return self.named

    def is_wrapper(self, value: Any) -> bool:
        return isinstance(value, dict) and self.holds_tensors(value)

    def add_optimizer(self, name: str, value: Any, *, alone: bool) -> None:
        if not self.optimizer:
            self.named.left_out[name] = "optimizer state"
            return
        self.add(_OPTIMIZER if alone else f"{_OPTIMIZER}.{name}", value)

    def add(self, name: str, value: Any, depth: int = 0) -> None:
        self.left -= 1
        if depth > _DEEPEST or self.left < 0:
            raise self.error("a dict or list is inside of itself, or in its pickle again and again")
        if isinstance(value, TensorRecord | Refused):
            if name in self.named.tensors or name in self.named.refused:
                raise self.error(f"two tensors would get the name {name!r}")
            if isinstance(value, TensorRecord):
                self.named.tensors[name] = value
            else:
                error = self.error(f"tensor {name!r} is {value.kind}: {value.advice}")
                self.named.refused[name] = error
        elif not isinstance(value, dict | list | tuple):
            self.named.left_out[name] = f"{_kind(value)}, not a tensor"
        elif not self.holds_tensors(value):
            if name:
                self.named.left_out[name] = f"{_kind(value)} without tensors"
        else:
            for key, inner in _entries(value):
                self.add(self.checked(f"{name}.{key}" if name else key), inner, depth + 1)

    def holds_tensors(self, value: Any, depth: int = 0) -> bool:
        """Whether a tensor is in a value, or in what it is made of."""
        if isinstance(value, TensorRecord | Refused):
            return True
        if not isinstance(value, dict | list | tuple):
            return False
        if depth > _DEEPEST:
            raise self.error(f"its values are nested more than {_DEEPEST} deep")
        if id(value) not in self.holding:
            self.holding[id(value)] = False  # until it is known; it may be inside of itself
            inside = [self.holds_tensors(inner, depth + 1) for _, inner in _entries(value)]
            self.holding[id(value)] = any(inside)
        return self.holding[id(value)]

    def checked(self, text: str) -> str:
        self.text += len(text)
        if self.text > _MOST_TEXT:
            raise self.error(f"its names have more than {_MOST_TEXT:,} characters")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.error(f"the text {text[:100]!r} cannot be written as UTF-8") from None
        return text

    def error(self, detail: str) -> ConversionError:
        return ConversionError(detail, self.location)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The values of a container with their names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key), inner
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield str(number), inner


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= _OPTIMIZER_KEYS


def _is_optimizer_entry(name: str, value: Any) -> bool:
    """Whether it is an optimizer's state, or those of several."""
    if not isinstance(value, dict | list):
        return False
    return name.lower().startswith("optim") or _is_optimizer(value)


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, Opaque) else type(value).__name__
