"""Foreign checkpoints converted to safetensors, safely: `convert_file`, and what readers need."""

from __future__ import annotations

from safetensors_core.convert.archives import open_archive
from safetensors_core.convert.conversion import Conversion, ConvertedFile, convert_file
from safetensors_core.convert.foreign import ForeignCheckpoint, StoredTensor
from safetensors_core.convert.pickles import load_pickle
from safetensors_core.convert.stand_ins import (
    Function,
    Opaque,
    StandIn,
    make_dict,
    refused_global,
)

__all__ = [
    "Conversion",
    "ConvertedFile",
    "ForeignCheckpoint",
    "Function",
    "Opaque",
    "StandIn",
    "StoredTensor",
    "convert_file",
    "load_pickle",
    "make_dict",
    "open_archive",
    "refused_global",
]
