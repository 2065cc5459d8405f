"""The names of the reference's compiled module, which some programs import from there."""

from safetensors_core.compat.handle import PySafeSlice, _safe_open_handle, safe_open
from safetensors_core.compat.prefetch import PrefetchLoader, TensorMeta
from safetensors_core.compat.serialization import (
    TensorSpec,
    deserialize,
    serialize,
    serialize_file,
)
from safetensors_core.errors import SafetensorError

__all__ = [
    "PrefetchLoader",
    "PySafeSlice",
    "SafetensorError",
    "TensorMeta",
    "TensorSpec",
    "_safe_open_handle",
    "deserialize",
    "safe_open",
    "serialize",
    "serialize_file",
]
