"""What goes where in a file that is about to be written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import accumulate, pairwise

from safetensors_core.dtypes import Dtype
from safetensors_core.errors import HeaderError, InvalidInputError
from safetensors_core.framework import TensorSpec
from safetensors_core.header import MAX_HEADER, TensorInfo, encode_header
from safetensors_core.tiling import data_nbytes

__all__ = ["check_metadata", "check_name", "lay_out"]

_ALIGNMENTS = tuple(1 << power for power in range(3, 21))


def lay_out(
    specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None, alignment: int
) -> tuple[bytes, dict[str, TensorInfo]]:
    """Find where everything goes in a file.

    Args:
        specs: Dtype and shape by name.
        metadata: Strings by name; None for no metadata.
        alignment: The data begins at a multiple of this many bytes.

    Returns:
        The first bytes of the file, up to the data, and the tensors in the order of the file.

    Raises:
        InvalidInputError: A name, a metadata value, a shape or `alignment` cannot be saved.

    Example:
        >>> specs = {"a": TensorSpec(Dtype.U8, (3,)), "b": TensorSpec(Dtype.F32, ())}
        >>> beginning, infos = lay_out(specs, None, 8)
        >>> {name: info.data_offsets for name, info in infos.items()}
        {'b': (0, 4), 'a': (4, 7)}
    """
    _check_names(specs)
    check_metadata(metadata)
    # 8.0 equals 8 and is none of them: a float would make lengths that are floats.
    if type(alignment) is not int or alignment not in _ALIGNMENTS:
        raise InvalidInputError(
            f"alignment {alignment!r} is not a power of two from 8 to {_ALIGNMENTS[-1]}"
        )
    by_dtype: dict[Dtype, list[str]] = {}
    for name in sorted(specs):
        by_dtype.setdefault(specs[name].dtype, []).append(name)
    ranked = sorted(by_dtype, key=lambda dtype: dtype.rank, reverse=True)
    names = [name for dtype in ranked for name in by_dtype[dtype]]
    ordered = [specs[name] for name in names]
    ends = list(accumulate(_sizes(names, ordered)))
    infos = dict(
        zip(
            names,
            map(
                TensorInfo,
                [spec.dtype for spec in ordered],
                [spec.shape for spec in ordered],
                pairwise([0, *ends]),
            ),
            strict=True,
        )
    )
    beginning = encode_header(infos, metadata, alignment=alignment)
    if len(beginning) - 8 > MAX_HEADER:
        warnings.warn(
            f"the header has {len(beginning) - 8:,} bytes; readers refuse more than "
            f"{MAX_HEADER:,} unless they are told to accept them",
            stacklevel=4,
        )
    return beginning, infos


def _sizes(names: list[str], specs: list[TensorSpec]) -> list[int]:
    """Bytes of tensors. Of thousands, most are like others."""
    known: dict[TensorSpec, int] = {}
    for name, spec in zip(names, specs, strict=True):
        if spec not in known:
            try:
                known[spec] = data_nbytes(name, spec.dtype, spec.shape)
            except HeaderError as error:
                raise InvalidInputError(error.detail) from None
    return [known[spec] for spec in specs]


def _check_names(names: Mapping[str, object]) -> None:
    """Refuse what cannot be names, all at once where nothing is wrong."""
    try:
        "".join(names).encode()
    except (TypeError, UnicodeEncodeError):
        pass
    else:
        if "__metadata__" not in names:
            return
    for name in names:
        check_name(name)


def check_name(name: object) -> None:
    """Refuse what cannot be the name of a tensor.

    Args:
        name: What a caller gave.

    Raises:
        InvalidInputError: It is no string, reserved, or not to be encoded as UTF-8.

    Example:
        >>> check_name(7)
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: tensor names must be strings, got 7 (int)
    """
    if not isinstance(name, str):
        raise InvalidInputError(
            f"tensor names must be strings, got {name!r} ({type(name).__name__})"
        )
    if name == "__metadata__":
        raise InvalidInputError(
            "a tensor cannot be named '__metadata__': the format reserves that name"
        )
    _check_text(name, "tensor name")


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    """Refuse what a header cannot hold as metadata.

    Args:
        metadata: What a caller gave; None for no metadata.

    Raises:
        InvalidInputError: It is no mapping of strings to strings, or not to be encoded as UTF-8.

    Example:
        >>> check_metadata({"step": 7})
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: metadata must map strings to strings, ...
    """
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {type(metadata).__name__}")
    for key, value in metadata.items():
        for text in (key, value):
            if not isinstance(text, str):
                raise InvalidInputError(
                    f"metadata must map strings to strings, got {key!r}: {value!r}"
                )
            _check_text(text, "metadata")


def _check_text(text: str, what: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"{what} {text[:80]!a} holds a lone surrogate, which UTF-8 cannot encode"
        ) from None
