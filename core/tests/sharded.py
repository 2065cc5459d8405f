"""A checkpoint of three files with an index."""

from __future__ import annotations

from pathlib import Path

from core.tests.checkpoints import write_shards
from core.tests.raw import RawFramework, counting, file_bytes
from safetensors_core import Dtype

RAW = RawFramework()
FILES = {
    "model-00001-of-00003.safetensors": {
        "wte": counting(Dtype.F32, 4, 6),
        "h.0": counting(Dtype.F16, 3),
    },
    "model-00002-of-00003.safetensors": {"h.1": counting(Dtype.F64, 5), "h.2": counting(Dtype.U8)},
    "model-00003-of-00003.safetensors": {"empty": counting(Dtype.I8, 0), "a": counting(Dtype.I8)},
}
FIRST, SECOND, THIRD = FILES
TENSORS = {name: tensor for tensors in FILES.values() for name, tensor in tensors.items()}
WEIGHT_MAP = {name: file for file, tensors in FILES.items() for name in tensors}
NBYTES = sum(len(tensor.data) for tensor in TENSORS.values())
METADATA = {"format": "raw"}


def checkpoint(tmp_path: Path) -> Path:
    """The folder of a new one."""
    return write_shards(tmp_path / "model", FILES, METADATA)


def one_file(folder: Path) -> Path:
    """The same tensors in one file."""
    path = folder.parent / "one.safetensors"
    path.write_bytes(file_bytes(TENSORS, METADATA))
    return path
