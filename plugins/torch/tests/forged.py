"""Checkpoints that torch would not write, and how they are refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import ConversionError, SafetensorError
from safetensors_torch import _plugin

Reference = tuple[Any, ...]


class Call:
    """What a pickle makes by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.called


class Stored:
    """A storage that lies outside of its pickle."""

    def __init__(self, *reference: Any) -> None:
        self.reference = ("storage", *reference)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Reference | None:
        return obj.reference if isinstance(obj, Stored) else None


def read(path: Path, optimizer: bool = False) -> Any:
    return _plugin.safetensors_read_checkpoint(path, optimizer)


def refusal(path: Path, kind: type[SafetensorError] = ConversionError) -> str:
    """The line with which a file is refused."""
    with pytest.raises(kind) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def forge(
    path: Path,
    data: bytes,
    storages: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """An archive as torch makes them, of any pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in (storages or {}).items():
            archive.writestr(f"a/data/{name}", content)
    return path


def tensor(
    offset: Any = 0, shape: Any = (4,), strides: Any = (1,), length: Any = 4, name: Any = "0"
) -> Call:
    storage = Stored(torch.FloatStorage, name, "cpu", length)
    hooks: OrderedDict[str, Any] = OrderedDict()
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, hooks)
