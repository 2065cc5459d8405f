"""Pickles of foreign checkpoints, read by a machine that calls nothing that they name."""

from __future__ import annotations

import os
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import IO, Any

from safetensors_core.convert.stand_ins import Function, Opaque, StandIn, pairs, refused_global
from safetensors_core.errors import ConversionError

__all__ = ["load_pickle"]

_PYTHON_3 = 3  # the protocol from which on globals have the names of Python 3

# An empty dict takes one step, and 64 bytes of memory.
_MOST_STEPS = 2**25
_LONGEST_NUMBER = 4096  # bits
_LONGEST_NAME = 200  # characters that an error shows
_SIZED = (str, bytes, bytearray, list, tuple, dict)
_SHORT = 64  # elements of an argument that costs nothing to copy


def load_pickle(
    file: IO[bytes],
    location: str,
    allowed: Mapping[str, Any] | None = None,
    *,
    persistent: Callable[[Any], Any] | None = None,
    limit: int | None = None,
) -> Any:
    """Read a pickle, in which globals are what is allowed in their place.

    A pickle is a program: it names functions and calls them. This machine calls none but those of
    `allowed`. Unlike Python's own unpicklers it hashes no nested keys, and allocates no more than
    there is in the file for what the pickle claims to need.

    Args:
        file: Opened for reading in binary, at the pickle; one that can seek. Afterwards it is at
            what follows the pickle.
        location: The file as errors show it.
        allowed: What stands for each global, by its full name in Python 3: a `Function` if it is
            to be called. None for only what pickle makes without one.
        persistent: Makes what stands for an object that lies outside of the pickle.
        limit: Bytes that the pickle may have; None for all that the file has.

    Returns:
        The object: numbers, texts, bytes, lists, tuples, dicts, what `allowed` and `persistent`
        made, and an `Opaque` for each set.

    Raises:
        UnsafeCheckpointError: It asks for another global; the error names it.
        ConversionError: It is no whole pickle, or not one of a checkpoint.

    Example:
        >>> import io, os, pickle
        >>> load_pickle(io.BytesIO(pickle.dumps({"w": [1, 2]})), "a.pkl")
        {'w': [1, 2]}
        >>> load_pickle(io.BytesIO(pickle.dumps(os.getcwd)), "a.pkl")
        Traceback (most recent call last):
        safetensors_core.errors.UnsafeCheckpointError: a.pkl: its pickle asks for ...getcwd...,...
    """
    machine = _Machine(_Bounded(file, limit), location, allowed or {}, persistent)
    try:
        return machine.run()
    except ConversionError as error:
        error.location = location
        raise
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # a damaged pickle can fail in any way
        cause = " ".join(str(error).split())[:200]
        raise ConversionError(f"its pickle is damaged: {cause}", location) from None


class _Bounded:
    """A file of which a pickle may read only what there is, whatever lengths it claims."""

    def __init__(self, file: IO[bytes], limit: int | None) -> None:
        begin = file.tell()
        there = file.seek(0, os.SEEK_END) - begin
        file.seek(begin)
        self._file = file
        self._left = there if limit is None else min(there, limit)
        self._is_limited = self._left < there
        self.taken = 0

    def check(self, size: int) -> None:
        if size > self._left - self.taken:
            if self._is_limited:
                raise ValueError(f"it claims to be longer than {self._left:,} bytes")
            raise ValueError(f"it ends too early: {size:,} bytes are to follow")

    def read(self, size: int) -> bytes:
        self.check(size)
        self.taken += size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(self._left - self.taken)
        self.taken += len(line)
        return line


class _Machine:
    """The state of pickle's machine, and the steps that take more than a line."""

    def __init__(
        self,
        file: _Bounded,
        location: str,
        allowed: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.file = file
        self.location = location
        self.allowed = allowed
        self.persistent = persistent
        self.protocol = 0
        self.copied = 0  # elements of the arguments of functions
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):  # type: ignore[arg-type]
            if step == _MOST_STEPS:
                raise ValueError(f"it takes more than {_MOST_STEPS:,} steps")
            _STEPS.get(opcode.name, _Machine.unknown)(self, argument)
        return self.stack.pop()

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

    def recall(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError(f"it takes value {number:,}, which it did not keep")
        self.push(self.memo[number])

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global is named by what is no text")
        if self.protocol < _PYTHON_3:
            module, name = NAME_MAPPING.get(
                (module, name), (IMPORT_MAPPING.get(module, module), name)
            )
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise refused_global(full[:_LONGEST_NAME], self.location)
        self.push(self.allowed[full])

    def instance(self, names: str) -> None:
        self.find(*names.split(" ", 1))
        raise ValueError("it makes an instance as only Python 2 did")

    def extension(self, code: int) -> None:
        # What stands behind the code is in a registry of the process that reads.
        raise refused_global(f"extension {code}", self.location)

    def reduce(self) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise ValueError("it calls what is no function")
        # A function may copy what it gets, and a pickle can give it the same thing each time.
        sizes = [len(value) for value in (arguments, *arguments) if type(value) in _SIZED]
        self.copied += sum(size for size in sizes if size > _SHORT)
        if self.copied > self.file.taken:
            raise ValueError("it passes the same values again and again")
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
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.set_state(state)
        # The attributes of an OrderedDict: the versions of modules, which torch keeps there.
        elif type(target) is not dict:
            raise ValueError("it sets attributes of what has none")


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(machine.last(count))


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, number: setattr(machine, "protocol", number),
    "FRAME": lambda machine, size: machine.file.check(size),
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
    "INST": _Machine.instance,
    "STACK_GLOBAL": lambda machine, _: machine.find(*machine.last(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persist(),
    "BINFLOAT": _Machine.push,
    "FLOAT": _Machine.push,
}
for _name in ("EXT1", "EXT2", "EXT4"):
    _STEPS[_name] = _Machine.extension
for _name in ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"):
    _STEPS[_name] = _Machine.integer
for _name in ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
    _STEPS[_name] = _Machine.push
for _name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"):
    _STEPS[_name] = _Machine.push
for _name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
    _STEPS[_name] = _Machine.text
for _name in ("GET", "BINGET", "LONG_BINGET"):
    _STEPS[_name] = _Machine.recall
for _name in ("PUT", "BINPUT", "LONG_BINPUT"):
    _STEPS[_name] = _Machine.memorize
