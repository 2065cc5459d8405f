"""Weights of one layout under the names, and with the axes, of another: `translate`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from safetensors_core.convert.layout_table import LayoutTable, Place, Rule, is_called, read_table
from safetensors_core.errors import InvalidInputError

if TYPE_CHECKING:
    from safetensors_core.framework import TensorSpec

__all__ = ["LayoutTable", "Move", "layout_of", "read_table", "translate"]

# More would hide what comes first.
_LISTED = 5


class Move(NamedTuple):
    """What becomes of one tensor.

    Attributes:
        name: Its new name.
        axes: Its new axes by their old numbers, as `numpy.transpose` takes them; None where the
            data stays as it is.

    Example:
        >>> Move("params.fc.kernel", (1, 0)).axes
        (1, 0)
    """

    name: str
    axes: tuple[int, ...] | None


def layout_of(format: str) -> str | None:  # noqa: A002  (the key in the metadata is called so)
    """The layout of a file whose metadata has a format.

    Args:
        format: What the metadata say under ``format``.

    Returns:
        The name of the layout; None if no layout is known by that format.

    Example:
        >>> layout_of("pt"), layout_of("np")
        ('torch', None)
    """
    table = read_table()
    return next((name for name in table.layouts if format in table.layout(name).formats), None)


def translate(
    specs: Mapping[str, TensorSpec], source: str, target: str, table: LayoutTable
) -> dict[str, Move]:
    """Find out what each tensor is called in another layout, and in which order its axes are.

    It goes by names and shapes alone. What they do not tell is an error, for a guess could give
    weights that load and are wrong.

    Args:
        specs: All tensors of a checkpoint, by name.
        source: The layout that they have: ``"torch"``, ``"flax"`` or ``"tensorflow"``.
        target: The layout that they shall have.
        table: The rules, of `read_table`.

    Returns:
        What becomes of each tensor, by its old name.

    Raises:
        InvalidInputError: There is no such layout; no rule matches a tensor; two rules say
            different things of it; or two tensors would have one name.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> shapes = {"fc.weight": (10, 3), "fc.bias": (10,)}
        >>> specs = {name: TensorSpec(Dtype.F32, shape) for name, shape in shapes.items()}
        >>> translate(specs, "torch", "flax", read_table())
        {'fc.weight': Move(name='params.fc.kernel', axes=(1, 0)),
         'fc.bias': Move(name='params.fc.bias', axes=None)}
    """
    table.layout(source), table.layout(target)
    if source == target:
        return {name: Move(name, None) for name in specs}
    translation = _Translation(specs, source, target, table)
    moves: dict[str, Move] = {}
    faults: list[str] = []
    for name, spec in specs.items():
        found = translation.move_or_fault(name)
        if isinstance(found, Move):
            moves[name] = found
        else:
            faults.append(f"{name!r} of shape {list(spec.shape)}: {found}")
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise InvalidInputError(
            f"the layout rules do not say what becomes of {len(faults)} of {len(specs)} tensors "
            f"from {source} to {target}: {'; '.join(faults[:_LISTED])}{more}. "
            f"Rules of your own can say it: see 'Layout rules' in the documentation"
        )
    _check_names(moves)
    return moves


class _UntoldError(Exception):
    """The rules do not say what becomes of a tensor. The message says why."""


class _Tensor(NamedTuple):
    """A name in its parts, separated by dots in every layout."""

    collection: str | None
    module: str
    last: str
    shape: tuple[int, ...]
    fault: str

    @property
    def dotted(self) -> str:
        return f"{self.module}.{self.last}" if self.module else self.last


class _Translation:
    def __init__(
        self, specs: Mapping[str, TensorSpec], source: str, target: str, table: LayoutTable
    ) -> None:
        self._source = source
        self._target = target
        self._table = table
        self._specs = specs
        collections = table.layout(source).collections
        # Parameters alone, without their collection, are as common as all variables.
        self._has_collections = any(name.partition(".")[0] in collections for name in specs)
        self._tensors = {name: self._parsed(name) for name in specs}
        self._shapes = {(found.module, found.last): found.shape for found in self._tensors.values()}

    def move_or_fault(self, name: str) -> Move | str:
        """What becomes of a tensor, or why nobody can tell."""
        try:
            return self._move(self._tensors[name])
        except _UntoldError as fault:
            return str(fault)

    def _move(self, tensor: _Tensor) -> Move:
        if tensor.fault:
            raise _UntoldError(tensor.fault)
        told = self._told(tensor, self._table.own_rules, self._table.own_kept)
        if told is None:
            self._refuse(tensor)
            told = self._told(tensor, self._table.rules, self._table.kept)
        if told is None and len(tensor.shape) < 2 and self._is_plain(tensor):
            told = self._kept(tensor)
        if told is None:
            raise _UntoldError(self._why(tensor))
        return told

    def _parsed(self, name: str) -> _Tensor:
        separator = self._table.layout(self._source).separator
        other = self._table.layout(self._target).separator
        collections = self._table.layout(self._source).collections
        root = self._table.roots.get(self._source, "")
        dotted, collection, fault = name.replace(separator, "."), None, ""
        if other != separator and other in name:
            fault = (
                f"its name has a {other!r}, which separates the parts of names in {self._target}"
            )
        elif "" in dotted.split("."):
            fault = "its name has an empty part"
        if self._has_collections:
            collection, _, dotted = dotted.partition(".")
            if collection not in collections:
                fault = fault or f"{collection!r} is no collection that the rules know"
        if root:
            if not dotted.startswith(f"{root}."):
                fault = fault or f"it is not below {root!r}, which your rules call the root"
            dotted = dotted[len(root) + 1 :]
        module, _, last = dotted.rpartition(".")
        return _Tensor(collection, module, last, self._specs[name].shape, fault)

    def _told(self, tensor: _Tensor, rules: tuple[Rule, ...], kept: tuple[str, ...]) -> Move | None:
        """What the rules say of a tensor, which must be one thing."""
        moves: dict[Move, str] = {}
        for rule in rules:
            if self._has_both(rule) and self._mismatch(tensor, rule) is None:
                moves.setdefault(self._moved(tensor, rule), rule.kind)
        if is_called(tensor.dotted, kept):
            moves.setdefault(self._kept(tensor), "a name that is kept")
        if len(moves) > 1:
            kinds = " and ".join(repr(kind) for kind in moves.values())
            raise _UntoldError(f"it is ambiguous: {kinds} match")
        return next(iter(moves), None)

    def _has_both(self, rule: Rule) -> bool:
        return self._source in rule.places and self._target in rule.places

    def _mismatch(self, tensor: _Tensor, rule: Rule) -> str | None:
        """Why a rule is not about a tensor: empty where nothing is alike, None where it is."""
        place = rule.places[self._source]
        if tensor.last != place.name or len(tensor.shape) != place.rank:
            return ""
        return next(self._differences(tensor, rule, place), None)

    def _differences(self, tensor: _Tensor, rule: Rule, place: Place) -> Iterator[str]:
        if self._has_collections:
            first = self._table.layout(self._source).collections[0]
            expected = first if place.collection is None else place.collection
            if tensor.collection != expected:
                yield f"it is not in {expected!r}"
        patterns = [found for found in (rule.module, place.module) if found]
        if not all(is_called(tensor.module, found) for found in patterns):
            yield "its module is not called like one"
        sizes = dict(zip(place.axes.split(), tensor.shape, strict=True))
        for axis, size in rule.sizes.items():
            if sizes[axis] != size:
                yield f"its axis {axis!r} has {sizes[axis]} elements, not {size}"
        beside = {
            last: shape
            for last in (*place.beside, *place.without, *place.fits)
            if (shape := self._shapes.get((tensor.module, last))) is not None
        }
        for last, rank in place.beside.items():
            if last not in beside or len(beside[last]) != rank:
                yield f"there is no {last!r} of rank {rank} beside it"
        for last, rank in place.without.items():
            if last in beside and len(beside[last]) == rank:
                yield f"there is a {last!r} of rank {rank} beside it"
        for last, axes in place.fits.items():
            expected_shape = [sizes[axis] for axis in axes.split()]
            if last in beside and list(beside[last]) != expected_shape:
                yield f"{last!r} beside it has shape {list(beside[last])}, not {expected_shape}"

    def _moved(self, tensor: _Tensor, rule: Rule) -> Move:
        old = rule.places[self._source].axes.split()
        place = rule.places[self._target]
        axes = tuple(old.index(axis) for axis in place.axes.split())
        name = self._name(place.collection, tensor, place.name)
        return Move(name, None if axes == tuple(range(len(axes))) else axes)

    def _kept(self, tensor: _Tensor) -> Move:
        return Move(self._name(None, tensor, tensor.last), None)

    def _name(self, collection: str | None, tensor: _Tensor, last: str) -> str:
        layout = self._table.layout(self._target)
        parts = [
            (collection or layout.collections[0]) if layout.collections else "",
            self._table.roots.get(self._target, ""),
            self._renamed(tensor.module),
            last,
        ]
        return ".".join(part for part in parts if part).replace(".", layout.separator)

    def _renamed(self, module: str) -> str:
        names = [
            names for names in self._table.modules if {self._source, self._target} <= names.keys()
        ]
        renamed = _substituted(module, names, self._source, self._target)
        if _substituted(renamed, names, self._target, self._source) != module:
            raise _UntoldError(
                f"your modules make {renamed!r} of its module, and something else of that"
            )
        return renamed

    def _is_plain(self, tensor: _Tensor) -> bool:
        """Whether a tensor can pass under its own name, and would pass so on the way back."""
        between = (self._source, self._target)
        return self._is_parameter(tensor) and not any(
            self._table.means_something(tensor.last, layout) for layout in between
        )

    def _is_parameter(self, tensor: _Tensor) -> bool:
        collections = self._table.layout(self._source).collections
        return not self._has_collections or tensor.collection == collections[0]

    def _refuse(self, tensor: _Tensor) -> None:
        for refusal in self._table.refused:
            between = refusal.layouts or (self._source,)
            ranks = refusal.ranks or (len(tensor.shape),)
            if (
                len(tensor.shape) in ranks
                and not {self._source, self._target}.isdisjoint(between)
                and is_called(tensor.dotted, refusal.tensors)
            ):
                raise _UntoldError(refusal.reason)

    def _why(self, tensor: _Tensor) -> str:
        known = [
            f"no {rule.kind!r}, for {mismatch}"
            for rule in (*self._table.own_rules, *self._table.rules)
            if self._has_both(rule) and (mismatch := self._mismatch(tensor, rule))
        ]
        if known:
            return ", ".join(known)
        if not self._is_parameter(tensor):
            return f"no rule knows a {tensor.last!r} in {tensor.collection!r}"
        if len(tensor.shape) < 2 and self._table.means_something(tensor.last, self._target):
            return f"{tensor.last!r} means something else in {self._target}"
        return f"no rule knows a {tensor.last!r} of rank {len(tensor.shape)}"


def _substituted(module: str, names: list[dict[str, str]], source: str, target: str) -> str:
    """A module's name with what the user's names say of its parts, all in one pass."""
    if not names:
        return module
    whole = "|".join(f"(?P<name{i}>{_pattern(pair[source], i)})" for i, pair in enumerate(names))

    def replaced(match: re.Match[str]) -> str:
        found = match.groupdict()
        i = next(i for i in range(len(names)) if found[f"name{i}"] is not None)
        return re.sub(r"\{([a-z]+)\}", lambda number: found[f"{number[1]}_{i}"], names[i][target])

    return re.sub(rf"(?<![^.])(?:{whole})(?![^.])", replaced, module)


def _pattern(template: str, i: int) -> str:
    """A regular expression for the template, the numbers in it as groups of their own."""
    texts = re.split(r"\{([a-z]+)\}", template)
    return "".join(
        rf"(?P<{text}_{i}>[0-9]+)" if odd % 2 else re.escape(text) for odd, text in enumerate(texts)
    )


def _check_names(moves: Mapping[str, Move]) -> None:
    taken: dict[str, str] = {}
    for old, move in moves.items():
        if move.name in taken:
            raise InvalidInputError(
                f"{taken[move.name]!r} and {old!r} would both be called {move.name!r}: give one "
                f"of them another name, with rules of your own"
            )
        taken[move.name] = old
