"""Pickles of foreign checkpoints, read without running anything that they ask for."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections.abc import Mapping
from typing import IO, Any

from safetensors_core.errors import ConversionError, UnsafeCheckpointError

__all__ = ["load_pickle", "refused_global"]

# How many bytes each opcode is followed by; below zero, where they say how many more there are.
_ARGUMENTS = {
    opcode.code.encode("latin-1"): 0 if opcode.arg is None else opcode.arg.n
    for opcode in pickletools.opcodes
}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_LINES = {b"c": 2, b"i": 2}  # GLOBAL and INST
_STOP, _FRAME, _PUT = b".", b"\x95", b"p"
_PLACES = {b"q", b"r"}  # BINPUT and LONG_BINPUT


def load_pickle(
    file: IO[bytes], location: str, allowed: Mapping[tuple[str, str], Any] | None = None
) -> Any:
    """Read a pickle that may only use what is allowed.

    A pickle is a program: it names functions and calls them. Here a name that is not in `allowed`
    ends the reading before anything is called.

    Args:
        file: Opened for reading in binary, at the pickle; one that can seek.
        location: The file as errors show it.
        allowed: What takes the place of each global, by module and name. None for only what
            pickle makes without one: numbers, texts, bytes, lists, dicts.

    Returns:
        The object.

    Raises:
        UnsafeCheckpointError: It asks for something else; the error names it.
        ConversionError: It is no whole pickle.

    Example:
        >>> import io, os, pickle
        >>> load_pickle(io.BytesIO(pickle.dumps({"w": [1, 2]})), "a.pkl")
        {'w': [1, 2]}
        >>> load_pickle(io.BytesIO(pickle.dumps(os.getcwd)), "a.pkl")
        Traceback (most recent call last):
        safetensors_core.errors.UnsafeCheckpointError: a.pkl: its pickle asks for ...getcwd...,...
    """
    try:
        _check_sizes(file, location)
        return _Unpickler(file, location, allowed or {}).load()
    except (ConversionError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  # a damaged pickle can fail in any way
        raise ConversionError(
            f"its pickle cannot be read: {type(error).__name__}: {error}", location
        ) from None


def refused_global(name: str, location: str) -> UnsafeCheckpointError:
    """The error for a pickle that asks for more than weights need.

    Args:
        name: The global, with its module.
        location: The file.

    Returns:
        The error, to be raised.

    Example:
        >>> print(refused_global("os.system", "a.bin"))
        a.bin: its pickle asks for 'os.system', which weights do not need; nothing of it was run
    """
    return UnsafeCheckpointError(
        f"its pickle asks for {name!r}, which weights do not need; nothing of it was run", location
    )


def _check_sizes(file: IO[bytes], location: str) -> None:
    """Compare what a pickle claims with what there is, and go back to its beginning.

    Python's unpickler allocates any length that is announced, and for a value that is to be kept
    in place N a table of twice that size: nine bytes can ask for 32 GiB.
    """
    begin = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(begin)
    codes = 0
    while (code := file.read(1)) != _STOP:
        if code not in _ARGUMENTS:
            raise ConversionError("its pickle is damaged, or ends too early", location)
        codes += 1
        place, follow = _argument(file, code)
        if place > codes:
            raise ConversionError(f"its pickle is damaged: it has no place {place:,}", location)
        if follow > end - file.tell():
            raise ConversionError(
                f"its pickle ends too early: {follow:,} bytes are to follow", location
            )
        if code != _FRAME:  # the opcodes themselves are in a frame
            file.seek(follow, os.SEEK_CUR)
    file.seek(begin)


def _argument(file: IO[bytes], code: bytes) -> tuple[int, int]:
    """Where an opcode keeps a value, and how many bytes follow on it; 0 where it does neither."""
    size = _ARGUMENTS[code]
    if size == pickletools.UP_TO_NEWLINE:
        lines = [file.readline() for _ in range(_LINES.get(code, 1))]
        return (int(lines[0]) if code == _PUT else 0), 0
    number = int.from_bytes(file.read(_LENGTHS.get(size, size)), "little")
    if size in _LENGTHS or code == _FRAME:
        return 0, number
    return (number if code in _PLACES else 0), 0


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: IO[bytes], location: str, allowed: Mapping[tuple[str, str], Any]
    ) -> None:
        super().__init__(file)
        self._location = location
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise refused_global(f"{module}.{name}", self._location) from None
