"""What stands for functions, and for what they make, where a foreign checkpoint is a pickle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safetensors_core.errors import UnsafeCheckpointError

__all__ = ["Function", "Opaque", "StandIn", "make_dict", "pairs", "refused_global"]

_KEYS = (str, float, bool, bytes, type(None))
_LONGEST_KEY = 16  # parts of a tuple
_LONGEST_KEY_NUMBER = 60  # bits; Python gives the same hash to as many longer ones as one likes


class StandIn:
    r"""What stands for an object that a pickle makes; plugins derive their own from it.

    Example:
        >>> import io
        >>> from safetensors_core.convert import load_pickle
        >>> class Date(StandIn):
        ...     def set_state(self, state):
        ...         self.year = state
        >>> data = b"cdates\nDate\n)RM\xea\x07b."
        >>> load_pickle(io.BytesIO(data), "a.pkl", {"dates.Date": Function(Date)}).year
        2026
    """

    def set_state(self, state: Any) -> None:
        """Take what the pickle says about the object once it is made; nothing, if not overridden.

        Args:
            state: Plain values and stand-ins, unchecked.

        Raises:
            ValueError: It does not describe such an object; so do TypeError, KeyError, IndexError.

        Example:
            >>> StandIn().set_state({"year": 2026})
        """


@dataclass(frozen=True)
class Opaque(StandIn):
    """What stands for an object that holds no weights.

    Attributes:
        kind: What it is.

    Example:
        >>> Opaque("set").kind
        'set'
    """

    kind: str


@dataclass(frozen=True)
class Function:
    """What stands for a function or class that a pickle may call.

    Attributes:
        call: Makes what stands for its result. It runs no code of the file's choice. Where the
            arguments do not fit, it raises ValueError, TypeError or what `refused_global` gives.

    Example:
        >>> Function(lambda *sizes: sizes).call(2, 3)
        (2, 3)
    """

    call: Callable[..., Any]


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


def make_dict(*items: Any) -> dict[Any, Any]:
    """Stand for `OrderedDict` and other kinds of dicts, as the call of a `Function`.

    Args:
        items: What they are made of: nothing, a dict, or a list of pairs.

    Returns:
        A plain dict.

    Raises:
        ValueError: It is made of something else, or of keys that are not plain.

    Example:
        >>> make_dict([["a", 1], ("b", 2)])
        {'a': 1, 'b': 2}
    """
    if not items:
        return {}
    (given,) = items
    if type(given) is dict:
        return {**given}
    return pairs([part for pair in given for part in _pair(pair)])


def pairs(values: list[Any]) -> dict[Any, Any]:
    """Keys and values one after the other, as a dict; only plain keys, whose hash is harmless.

    Args:
        values: As many keys as values.

    Returns:
        The dict.

    Raises:
        ValueError: A key is something else.

    Example:
        >>> pairs(["a", 1, "b", 2])
        {'a': 1, 'b': 2}
    """
    for key in values[::2]:
        parts = key if type(key) is tuple else (key,)
        if len(parts) > _LONGEST_KEY or not all(map(_is_plain, parts)):
            raise ValueError(f"a dict has a key ({type(key).__name__}) that no checkpoint has")
    return dict(zip(values[::2], values[1::2], strict=True))


def _is_plain(key: Any) -> bool:
    if type(key) is int:
        return key.bit_length() <= _LONGEST_KEY_NUMBER
    return type(key) in _KEYS


def _pair(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("a dict is made of what are no pairs")
    return value
