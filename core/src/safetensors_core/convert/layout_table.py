"""The rules of layouts as data: `LayoutTable`, the built-in one and users' additions to it."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from safetensors_core.errors import InvalidInputError

__all__ = ["Layout", "LayoutTable", "Place", "Refusal", "Rule", "is_called", "read_table"]

_BUILT_IN = Path(__file__).with_name("layouts.json")
_NUMBER = re.compile(r"\{([a-z]+)\}")


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to name weights and to order their axes.

    Attributes:
        separator: What stands between the parts of a name.
        formats: What the metadata of files with this layout have as ``format``.
        collections: The first parts that a name can have beside the module; the first of them is
            that of parameters. Empty where names begin with the module.

    Example:
        >>> read_table().layout("flax").collections
        ('params', 'batch_stats')
    """

    separator: str
    formats: tuple[str, ...]
    collections: tuple[str, ...] = ()


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tensor of one kind is called in one layout, and what tells it from others.

    Attributes:
        name: The last part of its name.
        axes: A word for each of its axes, in their order; the words are the rule's own.
        collection: Its collection, where the layout has some; None for that of parameters.
        module: Patterns of which the name of its module matches one; none for any module.
        beside: Last parts of names, and ranks, of tensors that are in the same module.
        without: The same, of tensors that are not.
        fits: Axes by last part of a name: such a tensor in the same module has these, if there
            is one.

    Example:
        >>> Place(name="kernel", axes="in out").rank
        2
    """

    name: str
    axes: str
    collection: str | None = None
    module: tuple[str, ...] = ()
    beside: dict[str, int] = {}
    without: dict[str, int] = {}
    fits: dict[str, str] = {}

    @property
    def rank(self) -> int:
        """How many axes the tensor has.

        Example:
            >>> Place(name="step", axes="").rank
            0
        """
        return len(self.axes.split())


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one kind of tensor crosses between layouts.

    Attributes:
        kind: What the tensor is, as errors call it.
        places: By layout, how it looks there. Two at least.
        module: Patterns of which the name of the module matches one, in every layout.
        sizes: The size that an axis must have, for axes that cannot have any.

    Example:
        >>> dense = read_table().rules[0]
        >>> dense.kind, dense.places["torch"].axes, dense.places["flax"].axes
        ('dense', 'out in', 'in out')
    """

    kind: str
    places: dict[str, Place]
    module: tuple[str, ...] = ()
    sizes: dict[str, int] = {}


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tensors that look like others, or like nothing, and what to tell of them.

    Attributes:
        tensors: Patterns of their names.
        reason: Why no built-in rule translates them.
        ranks: Their ranks; empty for all.
        layouts: Only translations from or to one of these; empty for all.

    Example:
        >>> Refusal(("*.in_proj_weight",), "it is three matrices in one").ranks
        ()
    """

    tensors: tuple[str, ...]
    reason: str
    ranks: tuple[int, ...] = ()
    layouts: tuple[str, ...] = ()


class _BuiltIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    layouts: dict[str, Layout]
    rules: tuple[Rule, ...]
    kept: tuple[str, ...]
    refused: tuple[Refusal, ...]


class _Own(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: tuple[Rule, ...] = ()
    kept: tuple[str, ...] = ()
    modules: tuple[dict[str, str], ...] = ()
    roots: dict[str, str] = {}


class LayoutTable:
    """The built-in rules, and a user's own, which come before them.

    Attributes:
        rules: The built-in rules.
        kept: Patterns of names that are the same in all layouts, data unchanged.
        refused: What the built-in rules would get wrong, or say nothing of.
        own_rules: The user's rules.
        own_kept: The user's patterns of that sort.
        modules: By layout, how modules are called that have other names elsewhere: parts of
            names, in which ``{n}`` stands for a number.
        roots: By layout, the module in which all others are.

    Example:
        >>> table = read_table()
        >>> table.layouts
        ('torch', 'flax', 'tensorflow')
    """

    def __init__(self, built_in: _BuiltIn, own: _Own) -> None:
        self._built_in = built_in
        self._own = own
        self.rules = built_in.rules
        self.kept = built_in.kept
        self.refused = built_in.refused
        self.own_rules = own.rules
        self.own_kept = own.kept
        self.modules = own.modules
        self.roots = own.roots

    @property
    def layouts(self) -> tuple[str, ...]:
        """The names of the layouts.

        Example:
            >>> "torch" in read_table().layouts
            True
        """
        return tuple(self._built_in.layouts)

    def layout(self, name: str) -> Layout:
        """What is known of a layout beside its rules.

        Args:
            name: Its name.

        Returns:
            The layout.

        Raises:
            InvalidInputError: There is none of that name.

        Example:
            >>> read_table().layout("tensorflow").separator
            '/'
        """
        if name not in self._built_in.layouts:
            known = ", ".join(map(repr, self.layouts))
            raise InvalidInputError(f"there is no layout {name!r}; there are {known}")
        return self._built_in.layouts[name]

    def means_something(self, name: str, layout: str) -> bool:
        """Whether a rule uses a name for something.

        Args:
            name: The last part of a tensor's name.
            layout: The layout that it has that name in.

        Returns:
            True if tensors so called are no plain parameters.

        Example:
            >>> table = read_table()
            >>> [table.means_something("gamma", layout) for layout in ("torch", "tensorflow")]
            [False, True]
        """
        return name in self._names[layout]

    @functools.cached_property
    def _names(self) -> dict[str, set[str]]:
        return {
            layout: {
                rule.places[layout].name
                for rule in (*self.own_rules, *self.rules)
                if layout in rule.places
            }
            for layout in self.layouts
        }

    @property
    def document(self) -> str:
        """All rules as JSON: equal documents are equal tables.

        Example:
            >>> read_table().document == read_table().document
            True
        """
        return msgspec.json.encode([self._built_in, self._own], order="deterministic").decode()

    @property
    def digest(self) -> str:
        """The SHA-256 of `document`, in hexadecimal.

        Example:
            >>> len(read_table().digest)
            64
        """
        return hashlib.sha256(self.document.encode()).hexdigest()


def is_called(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of some patterns.

    Args:
        name: A name of a module or a tensor, its parts separated by dots.
        patterns: Patterns with ``*``, ``?`` and ``[...]``. The name has a dot in front of it, so
            that ``*.fc`` is each module with the last part ``fc``. Case makes no difference.

    Returns:
        True if one matches.

    Example:
        >>> [is_called(name, ["*.fc"]) for name in ("fc", "mlp.FC", "mlp_fc")]
        [True, True, False]
    """
    dotted = f".{name}".lower()
    return any(fnmatch.fnmatchcase(dotted, pattern.lower()) for pattern in patterns)


def read_table(path: str | os.PathLike[str] | None = None) -> LayoutTable:
    """Read the rules by which weights cross between layouts.

    Args:
        path: A JSON file of the user's own rules, which come before the built-in ones.

    Returns:
        The table.

    Raises:
        InvalidInputError: The file is not valid; the message says where.
        OSError: It cannot be read.

    Example:
        >>> own = tmp_path / "rules.json"
        >>> _ = own.write_text('{"roots": {"tensorflow": "net"}}')
        >>> read_table(own).roots
        {'tensorflow': 'net'}
        >>> _ = own.write_text('{"root": {"tensorflow": "net"}}')
        >>> read_table(own)
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: ...: ... contains unknown field `root`
    """
    built_in = _built_in()
    own = _Own() if path is None else _decoded(Path(path), _Own)
    table = LayoutTable(built_in, own)
    if path is not None:
        _check(table, os.fspath(path))
    return table


@functools.cache
def _built_in() -> _BuiltIn:
    return _decoded(_BUILT_IN, _BuiltIn)


_Document = TypeVar("_Document", _BuiltIn, _Own)


def _decoded(path: Path, kind: type[_Document]) -> _Document:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(path, str(error)) from None


def _invalid(path: object, found: str) -> InvalidInputError:
    return InvalidInputError(f"{path}: these are no rules for layouts: {found}")


def _check(table: LayoutTable, path: object) -> None:
    """Hold a user's rules to what their types cannot say."""
    for position, rule in enumerate(table.own_rules):
        if fault := _fault_of_rule(rule, table):
            raise _invalid(path, f"{fault} - at `$.rules[{position}]`, kind {rule.kind!r}")
    for position, names in enumerate(table.modules):
        if fault := _fault_of_modules(names, table):
            raise _invalid(path, f"{fault} - at `$.modules[{position}]`")
    if fault := _fault_of_layouts(table.roots, table):
        raise _invalid(path, f"{fault} - at `$.roots`")


def _fault_of_rule(rule: Rule, table: LayoutTable) -> str:
    if fault := _fault_of_layouts(rule.places, table):
        return fault
    if len(rule.places) < 2:
        return "a rule needs the places of two layouts at least"
    axes = set(next(iter(rule.places.values())).axes.split())
    for layout, place in rule.places.items():
        fault = _fault_of_axes(place, axes) or _fault_of_collection(place, layout, table)
        if fault:
            return fault
    return _strange("sizes", rule.sizes, axes)


def _fault_of_axes(place: Place, axes: set[str]) -> str:
    words = place.axes.split()
    if len(set(words)) < len(words) or set(words) != axes:
        return f"the axes of all places must be the same, each once, not {place.axes!r}"
    return _strange("fits", (word for fit in place.fits.values() for word in fit.split()), axes)


def _strange(field: str, words: Iterable[str], axes: set[str]) -> str:
    strange = ", ".join(sorted(set(words) - axes))
    return f"{field!r} names axes that the tensor does not have: {strange}" if strange else ""


def _fault_of_collection(place: Place, layout: str, table: LayoutTable) -> str:
    collections = table.layout(layout).collections
    if place.collection is None or place.collection in collections:
        return ""
    return f"{layout} has no collection {place.collection!r}"


def _fault_of_layouts(found: dict[str, Any], table: LayoutTable) -> str:
    unknown = [name for name in found if name not in table.layouts]
    return f"there is no layout {unknown[0]!r}; there are {table.layouts}" if unknown else ""


def _fault_of_modules(names: dict[str, str], table: LayoutTable) -> str:
    if fault := _fault_of_layouts(names, table):
        return fault
    numbers = [sorted(_NUMBER.findall(template)) for template in names.values()]
    if len(names) < 2 or not all(names.values()):
        return "it needs the names in two layouts at least"
    if any(re.search("[{}]", _NUMBER.sub("", template)) for template in names.values()):
        return "a number in a name is written as {n}, with lower-case letters between the braces"
    if any(found != numbers[0] or len(set(found)) < len(found) for found in numbers):
        return "each name must have the same numbers, each once, such as {n}"
    return ""
