"""The names of the package `safetensors`, served by `safetensors_core`.

Example:
    >>> with safe_open(model_path, framework="np") as f:
    ...     f.keys()
    ['bias', 'weight']
"""

from safetensors_core.compat.handle import PySafeSlice, _safe_open_handle, safe_open
from safetensors_core.compat.prefetch import PrefetchLoader, TensorMeta
from safetensors_core.compat.serialization import (
    TensorSpec,
    deserialize,
    serialize,
    serialize_file,
)
from safetensors_core.errors import SafetensorError

# The newest release that our behaviour was compared with: programs ask for a least version.
__version__ = "0.8.0"

__all__ = [
    "PrefetchLoader",
    "PySafeSlice",
    "SafetensorError",
    "TensorMeta",
    "TensorSpec",
    "__version__",
    "_safe_open_handle",
    "deserialize",
    "safe_open",
    "serialize",
    "serialize_file",
]
