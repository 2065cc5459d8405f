"""Whether the names and shapes of a file are those that a model expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from safetensors_core.errors import StateDictError

__all__ = ["match_state_dict"]


def match_state_dict(
    location: str,
    found: Mapping[str, Sequence[int]],
    expected: Mapping[str, Sequence[int]],
    *,
    strict: bool = True,
    covered: Iterable[str] = (),
) -> tuple[list[str], list[str]]:
    """Compare the tensors of a file with those of a model, before any of them is changed.

    Plugins use it for their ``load_model``, so that `strict` and the result mean the same
    everywhere.

    Args:
        location: The file, as errors show it.
        found: Shapes in the file by name, in elements.
        expected: Shapes in the model by name.
        strict: Whether missing and unexpected names are an error. Shapes that differ always are.
        covered: Names that need not be in the file, because another name fills them.

    Returns:
        Names of the model that the file lacks, and names of the file that the model lacks, each
        sorted.

    Raises:
        StateDictError: Names or shapes do not match.

    Example:
        >>> match_state_dict("a.safetensors", {"w": (2,)}, {"w": (2,), "b": (1,)}, strict=False)
        (['b'], [])
    """
    missing = sorted(expected.keys() - found.keys() - set(covered))
    unexpected = sorted(found.keys() - expected.keys())
    mismatched = {
        name: (list(shape), list(expected[name]))
        for name, shape in found.items()
        if name in expected and tuple(shape) != tuple(expected[name])
    }
    if mismatched or (strict and (missing or unexpected)):
        raise StateDictError(location, missing, unexpected, mismatched)
    return missing, unexpected
