"""GGUF, the files of llama.cpp: tensors that are not quantised."""

from __future__ import annotations

import itertools
import os

from safetensors_core import ConversionError, Dtype, SafetensorError, UnsupportedDtypeError
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_numpy.checkpoints.gguf_header import GgufTensor, read_header
from safetensors_numpy.checkpoints.stored import checked_shape, region_of, stored_tensor

__all__ = ["read_gguf"]

# The numbers of ggml's types: https://github.com/ggml-org/ggml/blob/master/include/ggml.h
_DTYPES = {
    0: Dtype.F32,
    1: Dtype.F16,
    24: Dtype.I8,
    25: Dtype.I16,
    26: Dtype.I32,
    27: Dtype.I64,
    28: Dtype.F64,
    30: Dtype.BF16,
}
_QUANTISED = {
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
_REMEDY = (
    "Convert the model that this file was quantised from, or dequantise it first: "
    "llama-quantize --allow-requantize IN.gguf OUT.gguf F32"
)


def read_gguf(path: str | os.PathLike[str]) -> ForeignCheckpoint:
    """Read a GGUF file of version 2 or 3, in either byte order.

    Args:
        path: The file.

    Returns:
        The checkpoint, with shapes outermost dimension first, as NumPy has them. Memory holds
        one chunk at a time; of a big-endian file one tensor. Quantised tensors are refused: no
        array has such a type.

    Raises:
        ConversionError: It is damaged.
        OSError: It cannot be read.

    Example:
        >>> import struct
        >>> entry = struct.pack("<Q4sIQIQ", 4, b"bias", 1, 3, 0, 0)
        >>> start = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry
        >>> (tmp_path / "a.gguf").write_bytes(start.ljust(64, b"-") + bytes(12))
        76
        >>> read_gguf(tmp_path / "a.gguf").tensors["bias"].read()
        array([0., 0., 0.], dtype=float32)
    """
    location = os.fsdecode(path)
    header = read_header(location)
    size = os.path.getsize(location)
    tensors: dict[str, StoredTensor] = {}
    refused: dict[str, SafetensorError] = {}
    regions = []
    for entry in header.tensors:
        try:
            dtype = _dtype(entry, location)
        except UnsupportedDtypeError as error:
            refused[entry.name] = error.with_traceback(None)  # whose frames would hold the header
            continue
        spec = checked_shape(entry.name, dtype, entry.shape, location)
        end = entry.offset + spec.nbytes
        if end > size:
            raise ConversionError(
                f"tensor {entry.name!r} ends at byte {end:,}, and the file at {size:,}", location
            )
        if spec.nbytes:
            regions.append((entry.offset, end, entry.name))
        tensors[entry.name] = stored_tensor(
            entry.name,
            spec,
            region_of(location, entry.offset),
            location,
            swapped=header.big_endian and spec.dtype.bits > 8,
        )
    _check_overlaps(sorted(regions), location)
    return ForeignCheckpoint(
        tensors,
        framework="numpy",
        format="np",
        metadata=header.metadata,
        left_out=header.left_out,
        refused=refused,
    )


def _dtype(entry: GgufTensor, location: str) -> Dtype:
    if entry.kind in _DTYPES:
        return _DTYPES[entry.kind]
    called = _QUANTISED.get(entry.kind, f"number {entry.kind} of ggml")
    error = UnsupportedDtypeError(
        called, "the safetensors format", tensor=entry.name, remedy=_REMEDY
    )
    error.location = location
    raise error


def _check_overlaps(regions: list[tuple[int, int, str]], location: str) -> None:
    for (_, end, name), (begin, _, other) in itertools.pairwise(regions):
        if begin < end:
            raise ConversionError(f"tensors {name!r} and {other!r} overlap", location)
