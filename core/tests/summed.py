"""What the tests of checksums share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from core.tests.checkpoints import INDEX
from core.tests.raw import counting
from safetensors_core import Dtype
from safetensors_core.checkpoint.verification import verify_checkpoint

SUMS = f"{INDEX}.sha256sums"
ZERO = "00" * 32
# In an order that no writer of ours chooses, with empty ones at every place.
MIXED = {
    "nothing first": counting(Dtype.F32, 0),
    "small": counting(Dtype.U8, 3),
    "": counting(Dtype.I8, 1),
    "large": counting(Dtype.I64, 11),
    "nothing": counting(Dtype.F32, 0, 4),
    "packed": counting(Dtype.F4, 6),
    "nothing last": counting(Dtype.F64, 2, 0),
}


def digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def codes(location: Path) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.tensor) for finding in verify_checkpoint(location).findings]


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
