"""Files that every framework must read and write the same: one per dtype, made from seeds.

The files themselves are not in the repository, only their hashes, in `golden.json`. A plugin that
loads a golden file and saves it again must arrive at the same hash. What holds for each framework
by itself holds for every pair: a file saved by one, loaded and saved by another, keeps its bytes.

Run it to write the hashes anew: ``python -m safetensors_core.testing.golden``.
"""

from __future__ import annotations

import hashlib
import json
from math import prod
from pathlib import Path

from safetensors_core.dtypes import Dtype
from safetensors_core.framework import TensorSpec
from safetensors_core.layout import lay_out

__all__ = ["golden_file", "golden_hash", "sha256"]

# SHA-256 of each dtype's golden file.
_HASHES = Path(__file__).with_name("golden.json")

# Types of 4 and 6 bits fill whole bytes, and torch holds F4 in pairs: their shapes end in 8.
_SHAPES = {
    "scalar": (),
    "empty": (0, 3),
    "one": (1,),
    "odd": (3, 5, 7),
    "large": (129, 257),
}
_PACKED_SHAPES = {"empty": (0, 8), "one": (8,), "odd": (3, 5, 8), "large": (129, 256)}

# Infinities, negative zero, subnormals, and NaN of both signs, quiet and signalling.
_SPECIAL_32 = [
    *(0x7F800000, 0xFF800000, 0x80000000, 0x00000001, 0x807FFFFF, 0x7FC00000, 0xFFC12345),
    *(0x7F800001, 0xFFBFFFFF),
]
_SPECIAL_64 = [
    *(0x7FF0000000000000, 0xFFF0000000000000, 0x8000000000000000, 0x0000000000000001),
    *(0x800FFFFFFFFFFFFF, 0x7FF8000000000000, 0xFFF8123456789ABC, 0x7FF0000000000001),
]


def golden_file(dtype: Dtype) -> bytes:
    """The bytes of the golden file of a dtype.

    Args:
        dtype: An element type.

    Returns:
        A whole file; the same on every machine.

    Example:
        >>> from safetensors_core import parse_header
        >>> list(parse_header(golden_file(Dtype.F32)).tensors)
        ['empty', 'large', 'odd', 'one', 'scalar', 'special']
    """
    shapes: dict[str, tuple[int, ...]] = dict(_SHAPES if dtype.bits >= 8 else _PACKED_SHAPES)
    data = {}
    if dtype is not Dtype.BOOL and dtype.bits <= 16:  # every element that there is
        data["every"] = b"".join(
            pattern.to_bytes(max(dtype.bits, 8) // 8, "little")
            for pattern in range(1 << max(dtype.bits, 8))
        )
        shapes["every"] = (len(data["every"]) * 8 // dtype.bits,)
        if dtype.bits == 6:  # a row of 3 bytes holds 4 elements
            data["every"] += bytes(-len(data["every"]) % 3)
            shapes["every"] = (len(data["every"]) * 8 // 6,)
    if dtype.bits >= 32:
        special = _SPECIAL_64 if dtype.bits == 64 and dtype is not Dtype.C64 else _SPECIAL_32
        width = 8 if special is _SPECIAL_64 else 4
        data["special"] = b"".join(pattern.to_bytes(width, "little") for pattern in special)
        data["special"] += bytes(-len(data["special"]) % (dtype.bits // 8))
        shapes["special"] = (len(data["special"]) * 8 // dtype.bits,)
    for name, shape in shapes.items():
        if name not in data:
            seed = f"{dtype.value} {name}".encode()
            data[name] = hashlib.shake_128(seed).digest(prod(shape) * dtype.bits // 8)
            if dtype is Dtype.BOOL:
                data[name] = bytes(byte & 1 for byte in data[name])
    specs = {name: TensorSpec(dtype, shape) for name, shape in shapes.items()}
    beginning, infos = lay_out(specs, {"dtype": dtype.value}, 8)
    return beginning + b"".join(data[name] for name in infos)


def golden_hash(dtype: Dtype) -> str:
    """The hash of the golden file of a dtype, as this package was released with it.

    Args:
        dtype: An element type.

    Returns:
        SHA-256 in hexadecimal digits.

    Example:
        >>> golden_hash(Dtype.I64) == sha256(golden_file(Dtype.I64))
        True
    """
    found: str = json.loads(_HASHES.read_text("utf-8"))[dtype.value]
    return found


def sha256(data: bytes) -> str:
    """The hash of some bytes, as `golden.json` holds it.

    Args:
        data: A whole file.

    Returns:
        SHA-256 in hexadecimal digits.

    Example:
        >>> sha256(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def _write_hashes() -> None:
    hashes = {dtype.value: sha256(golden_file(dtype)) for dtype in Dtype}
    _HASHES.write_text(json.dumps(hashes, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    _write_hashes()
