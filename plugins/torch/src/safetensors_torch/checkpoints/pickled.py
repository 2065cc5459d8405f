"""A machine that reads pickles and calls nothing that they name."""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from safetensors_core import ConversionError
from safetensors_core.convert import refused_global

__all__ = ["MOST_BYTES", "Bounded", "Function", "Opaque", "pairs", "read_pickle"]

#: Longest pickle that is read, in bytes: half a million tensors take as much.
MOST_BYTES = 64 * 2**20

_PYTHON_3 = 3  # the protocol from which on globals have the names of Python 3

_LONGEST_NAME = 200  # characters that an error shows
_LONGEST_NUMBER = 4096  # bits

_KEYS = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True)
class Function:
    """What stands for a function or class that a pickle may call.

    Attributes:
        call: Makes what stands for its result. It runs no code of the file's choice.

    Example:
        >>> Function(lambda *sizes: sizes).call(2, 3)
        (2, 3)
    """

    call: Callable[..., Any]


@dataclass(frozen=True)
class Opaque:
    """What stands for a value that holds no weights.

    Attributes:
        kind: What it is.

    Example:
        >>> Opaque("set").kind
        'set'
    """

    kind: str


class Bounded:
    """A file of which a pickle may read only so many bytes, whatever lengths it claims.

    Args:
        file: Opened for reading in binary, at the pickle.
        location: Its name as errors show it.

    Example:
        >>> import io
        >>> Bounded(io.BytesIO(b"N."), "a.pt").read(1)
        b'N'
    """

    def __init__(self, file: IO[bytes], location: str) -> None:
        self._file = file
        self._location = location
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        """So many bytes, or as many as there are.

        Args:
            size: Bytes.

        Raises:
            ConversionError: They are more than a pickle may have.

        Example:
            >>> import io
            >>> Bounded(io.BytesIO(b"N."), "a.pt").read(2)
            b'N.'
        """
        if size > self._left:
            raise self._too_long()
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        """A line.

        Raises:
            ConversionError: It is longer than a pickle may be.

        Example:
            >>> import io
            >>> Bounded(io.BytesIO(b"os"), "a.pt").readline()
            b'os'
        """
        line = self._file.readline(self._left + 1)
        if len(line) > self._left:
            raise self._too_long()
        self._left -= len(line)
        return line

    def _too_long(self) -> ConversionError:
        return ConversionError(
            f"its pickle claims more than {MOST_BYTES:,} bytes, which names and shapes do not need",
            self._location,
        )


def read_pickle(
    file: Any,
    location: str,
    known: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read a pickle, in which functions are what `known` has in their place.

    Unlike Python's own unpicklers this one calls nothing but that, hashes no nested keys and
    allocates no table that the pickle claims to need.

    Args:
        file: What has `read` and `readline`, at the pickle; afterwards at what follows it.
        location: Its name as errors show it.
        known: What stands for each global that is allowed, by its full name in Python 3.
        persistent: Makes what stands for an object that lies outside of the pickle.

    Returns:
        The object: numbers, texts, lists, tuples, dicts, and what `known` made.

    Raises:
        UnsafeCheckpointError: It asks for another global; the error names it.
        ConversionError: It is no whole pickle.

    Example:
        >>> import io, pickle
        >>> read_pickle(io.BytesIO(pickle.dumps({"w": [1, 2]})), "a.pt", {})
        {'w': [1, 2]}
        >>> read_pickle(io.BytesIO(pickle.dumps(eval)), "a.pt", {})
        Traceback (most recent call last):
        safetensors_core.errors.UnsafeCheckpointError: a.pt: ... asks for 'builtins.eval', ...
    """
    machine = _Machine(location, known, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            _STEPS.get(opcode.name, _Machine.unknown)(machine, argument)
        return machine.stack.pop()
    except ConversionError as error:
        error.location = location
        raise
    # What a damaged pickle makes of the steps below, and of pickletools.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AssertionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ConversionError(f"its pickle is damaged: {cause}", location) from None


class _Machine:
    """The state of pickle's machine, and the steps that take more than a line."""

    def __init__(
        self, location: str, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None
    ) -> None:
        self.location = location
        self.known = known
        self.persistent = persistent
        self.protocol = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def unknown(self, _: object) -> None:
        raise ValueError("it does what checkpoints do not")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.below.pop()
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        values = tuple(self.stack[-count:])
        if len(values) < count:
            raise ValueError("it takes more values than it made")
        del self.stack[-count:]
        return values

    def integer(self, value: int) -> None:
        # Python refuses to write down longer ones, which would be noticed elsewhere.
        if value.bit_length() > _LONGEST_NUMBER:
            raise ValueError(f"a number of {value.bit_length():,} bits")
        self.push(value)

    def text(self, value: str) -> None:
        # pickletools takes the texts of Python 2 for Latin-1; what saved them used UTF-8.
        self.push(value.encode("latin-1").decode())

    def memorize(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global is named by what is no text")
        if self.protocol < _PYTHON_3:
            module, name = NAME_MAPPING.get(
                (module, name), (IMPORT_MAPPING.get(module, module), name)
            )
        full = f"{module}.{name}"
        if full not in self.known:
            raise refused_global(full[:_LONGEST_NAME], self.location)
        self.push(self.known[full])

    def reduce(self) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise ValueError("it calls what is no function")
        self.push(function.call(*arguments))

    def persist(self) -> None:
        if self.persistent is None:
            raise ValueError("it refers to objects outside of itself")
        self.push(self.persistent(self.stack.pop()))

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to what is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("it sets items of what is no dict")
        target.update(pairs(values))

    def frozen(self, _: object) -> None:
        self.since_mark()
        self.push(Opaque("frozenset"))

    def build(self) -> None:
        # The attributes of an OrderedDict: the versions of modules, which torch keeps there.
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise ValueError("it sets attributes of what has none")


def pairs(values: list[Any]) -> dict[Any, Any]:
    """Keys and values one after the other, as a dict; only plain keys, whose hash is harmless.

    Args:
        values: As many keys as values.

    Raises:
        ValueError: A key is something else.

    Example:
        >>> pairs(["a", 1, "b", 2])
        {'a': 1, 'b': 2}
    """
    for key in values[::2]:
        parts = key if type(key) is tuple else (key,)
        if not all(type(part) in _KEYS for part in parts):
            raise ValueError(f"a key of a dict is of type {type(key).__name__}")
    return dict(zip(values[::2], values[1::2], strict=True))


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(machine.last(count))


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, number: setattr(machine, "protocol", number),
    "FRAME": lambda *_: None,
    "STOP": lambda *_: None,
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": _constant(Opaque("set")),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.last(1),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": lambda machine, _: machine.push(pairs(machine.since_mark())),
    "FROZENSET": _Machine.frozen,
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([*machine.last(2)]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.since_mark(),
    "MEMOIZE": lambda machine, _: machine.memorize(len(machine.memo)),
    "GLOBAL": lambda machine, names: machine.find(*names.split(" ", 1)),
    "INST": lambda machine, names: machine.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find(*machine.last(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persist(),
}
for _name in ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"):
    _STEPS[_name] = _Machine.integer
for _name in ("FLOAT", "BINFLOAT"):
    _STEPS[_name] = _Machine.push
for _name in ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
    _STEPS[_name] = _Machine.push
for _name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"):
    _STEPS[_name] = _Machine.push
for _name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
    _STEPS[_name] = _Machine.text
for _name in ("GET", "BINGET", "LONG_BINGET"):
    _STEPS[_name] = lambda machine, number: machine.push(machine.memo[number])
for _name in ("PUT", "BINPUT", "LONG_BINPUT"):
    _STEPS[_name] = _Machine.memorize
