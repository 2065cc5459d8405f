"""The safetensors format without a framework: read and write tensors, with plugins.

Names are imported on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safetensors_core.checkpoint.comparison import compare_checkpoints
    from safetensors_core.checkpoint.metadata import CheckpointMetadata, read_metadata
    from safetensors_core.checkpoint.saving import save_checkpoint
    from safetensors_core.checkpoint.splitting import merge_checkpoint, split_checkpoint
    from safetensors_core.checkpoint.verification import verify_checkpoint
    from safetensors_core.convert.conversion import convert_file
    from safetensors_core.dtypes import Dtype
    from safetensors_core.errors import (
        CheckpointError,
        CheckpointReason,
        CheckpointWarning,
        ClosedFileError,
        ConversionError,
        FileChangedError,
        FrameworkNotFoundError,
        HeaderError,
        InvalidInputError,
        NotASafetensorsRepoError,
        PluginError,
        Reason,
        RemoteError,
        SafetensorError,
        SharedMemoryError,
        SliceError,
        StateDictError,
        TensorNotFoundError,
        UnsafeCheckpointError,
        UnsupportedDtypeError,
    )
    from safetensors_core.exchange import exchange
    from safetensors_core.filling import load_into
    from safetensors_core.framework import API_VERSION, OLDEST_API_VERSION, Framework
    from safetensors_core.header import MAX_HEADER, Header, TensorInfo, parse_header
    from safetensors_core.hookspecs import hookimpl
    from safetensors_core.plugins import (
        PluginInfo,
        get_framework,
        list_plugins,
        register_framework,
    )
    from safetensors_core.reader import TensorSlice, load, load_file, read_header, safe_open
    from safetensors_core.sources import ByteSource
    from safetensors_core.state_dict import match_state_dict
    from safetensors_core.tensor_spec import PreparedTensors, TensorSpec
    from safetensors_core.writer import save, save_file, save_stream

__version__ = "0.1.0"

_MODULES = {
    "checkpoint.comparison": ["compare_checkpoints"],
    "checkpoint.metadata": ["CheckpointMetadata", "read_metadata"],
    "checkpoint.saving": ["save_checkpoint"],
    "checkpoint.splitting": ["merge_checkpoint", "split_checkpoint"],
    "checkpoint.verification": ["verify_checkpoint"],
    "convert.conversion": ["convert_file"],
    "dtypes": ["Dtype"],
    "errors": [
        "CheckpointError",
        "CheckpointReason",
        "CheckpointWarning",
        "ClosedFileError",
        "ConversionError",
        "FileChangedError",
        "FrameworkNotFoundError",
        "HeaderError",
        "InvalidInputError",
        "NotASafetensorsRepoError",
        "PluginError",
        "Reason",
        "RemoteError",
        "SafetensorError",
        "SharedMemoryError",
        "SliceError",
        "StateDictError",
        "TensorNotFoundError",
        "UnsafeCheckpointError",
        "UnsupportedDtypeError",
    ],
    "exchange": ["exchange"],
    "filling": ["load_into"],
    "framework": ["API_VERSION", "OLDEST_API_VERSION", "Framework"],
    "header": ["MAX_HEADER", "Header", "TensorInfo", "parse_header"],
    "hookspecs": ["hookimpl"],
    "plugins": ["PluginInfo", "get_framework", "list_plugins", "register_framework"],
    "reader": ["TensorSlice", "load", "load_file", "read_header", "safe_open"],
    "sources": ["ByteSource"],
    "state_dict": ["match_state_dict"],
    "tensor_spec": ["PreparedTensors", "TensorSpec"],
    "writer": ["save", "save_file", "save_stream"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "API_VERSION",
    "MAX_HEADER",
    "OLDEST_API_VERSION",
    "ByteSource",
    "CheckpointError",
    "CheckpointMetadata",
    "CheckpointReason",
    "CheckpointWarning",
    "ClosedFileError",
    "ConversionError",
    "Dtype",
    "FileChangedError",
    "Framework",
    "FrameworkNotFoundError",
    "Header",
    "HeaderError",
    "InvalidInputError",
    "NotASafetensorsRepoError",
    "PluginError",
    "PluginInfo",
    "PreparedTensors",
    "Reason",
    "RemoteError",
    "SafetensorError",
    "SharedMemoryError",
    "SliceError",
    "StateDictError",
    "TensorInfo",
    "TensorNotFoundError",
    "TensorSlice",
    "TensorSpec",
    "UnsafeCheckpointError",
    "UnsupportedDtypeError",
    "__version__",
    "compare_checkpoints",
    "convert_file",
    "exchange",
    "get_framework",
    "hookimpl",
    "list_plugins",
    "load",
    "load_file",
    "load_into",
    "match_state_dict",
    "merge_checkpoint",
    "parse_header",
    "read_header",
    "read_metadata",
    "register_framework",
    "safe_open",
    "save",
    "save_checkpoint",
    "save_file",
    "save_stream",
    "split_checkpoint",
    "verify_checkpoint",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
