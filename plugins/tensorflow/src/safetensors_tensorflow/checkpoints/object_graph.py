"""Names of the variables in a TensorFlow checkpoint that holds a graph of objects.

Such a checkpoint stores each variable under the shortest way to it from the object that was saved.
If an optimizer was saved with its model, that way may lead through the optimizer, which knows the
variables it trains: what is stored below an optimizer is not always its state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from safetensors_tensorflow.checkpoints.wire import read_fields

__all__ = ["VALUE", "name_variables"]

#: What ends the key of the value of a variable.
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"

_STEPS = {"_iterations", "iter", "iterations"}
_RATES = {"_learning_rate", "learning_rate"}


@dataclass
class _Node:
    children: list[tuple[str, int]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    own_names: list[str] = field(default_factory=list)
    has_slots: bool = False

    @property
    def is_optimizer(self) -> bool:
        names = {name for name, _ in self.children}
        return self.has_slots or bool(names & _STEPS and names & _RATES)


def name_variables(graph: bytes, wanted: Container[str]) -> dict[str, str]:
    """Names for all variables that can be reached without going through an optimizer.

    Each gets the name that it has itself, ``dense/kernel``, as Keras gives them, if all of these
    differ and lie in a layer. Otherwise it is the way to it, such as ``model/layer/kernel``.

    Args:
        graph: A ``TrackableObjectGraph``.
        wanted: The keys that need a name.

    Returns:
        Names by the keys of the checkpoint.

    Raises:
        ValueError: The graph is damaged.

    Example:
        >>> name_variables(b"", set())
        {}
    """
    nodes = [_node(value) for n, value in read_fields(graph) if n == 1 and isinstance(value, bytes)]
    ways: dict[str, str] = {}
    own_names: dict[str, str] = {}
    for way, node in _walk(nodes):
        for key, own in zip(node.keys, node.own_names, strict=True):
            if key in wanted:
                # An object has further attributes, which are no value.
                _, separator, attribute = key.removesuffix(VALUE).rpartition("/.ATTRIBUTES/")
                ways[key] = way + separator + (attribute if separator else "")
                own_names[key] = own
    distinct = len(set(own_names.values())) == len(own_names)
    return own_names if distinct and all("/" in name for name in own_names.values()) else ways


def _walk(nodes: list[_Node]) -> list[tuple[str, _Node]]:
    """Nodes with the shortest ways to them, around the optimizers."""
    ways = {0: ""} if nodes and not nodes[0].is_optimizer else {}
    waiting = deque(ways)
    while waiting:
        number = waiting.popleft()
        for name, child in nodes[number].children:
            if not 0 <= child < len(nodes):
                raise ValueError(f"its graph of objects has no object {child}")
            if child in ways or name == "optimizer" or nodes[child].is_optimizer:
                continue
            escaped = name.replace(".", "..").replace("/", ".S")  # as TensorFlow does
            ways[child] = f"{ways[number]}/{escaped}".lstrip("/")
            waiting.append(child)
    return [(way, nodes[number]) for number, way in ways.items()]


def _node(message: bytes) -> _Node:
    node = _Node()
    for number, value in read_fields(message):
        if number == 3:
            node.has_slots = True
        elif number in (1, 2) and isinstance(value, bytes):
            fields = dict(read_fields(value))
            if number == 1:
                child = fields.get(1, 0)
                node.children.append(
                    (_text(fields.get(2)), child if isinstance(child, int) else -1)
                )
            else:
                node.own_names.append(_text(fields.get(2)))
                node.keys.append(_text(fields.get(3)))
    return node


def _text(value: int | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else ""
