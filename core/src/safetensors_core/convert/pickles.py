"""Pickles of foreign checkpoints, read without running anything that they ask for."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import IO, Any

from safetensors_core.errors import ConversionError, UnsafeCheckpointError

__all__ = ["load_pickle", "refused_global"]


def load_pickle(
    file: IO[bytes], location: str, allowed: Mapping[tuple[str, str], Any] | None = None
) -> Any:
    """Read a pickle that may only use what is allowed.

    A pickle is a program: it names functions and calls them. Here a name that is not in `allowed`
    ends the reading before anything is called.

    Args:
        file: Opened for reading in binary.
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
        return _Unpickler(file, location, allowed or {}).load()
    except (UnsafeCheckpointError, OSError, MemoryError):
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
