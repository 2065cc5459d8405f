"""A foreign format for tests, and the plugin that reads it: JSON with dtypes, shapes and bytes."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from core.tests.raw import DTYPES, RawFramework, RawTensor
from safetensors_core import (
    ConversionError,
    Dtype,
    InvalidInputError,
    TensorSpec,
    UnsupportedDtypeError,
    hookimpl,
    load_file,
    plugins,
    register_framework,
)
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_core.plugin_info import manager

__all__ = ["AnyFramework", "ToyFramework", "ToyPlugin", "loaded", "registered", "write_toy"]

Plugin = TypeVar("Plugin")

_CODES = {Dtype.F32: "f", Dtype.F64: "d", Dtype.F16: "e"}


class ToyFramework(RawFramework):
    """Tensors of bytes, of which some can be converted."""

    name: ClassVar[str] = "toy"
    native_package: ClassVar[str] = "toy"
    dtypes: Mapping[Dtype, str] = {d: name for d, name in DTYPES.items() if d is not Dtype.BF16}

    def cast(self, tensor: RawTensor, dtype: Dtype) -> RawTensor:
        if tensor.dtype not in _CODES or dtype not in _CODES:
            raise InvalidInputError(f"toy does not convert {tensor.dtype} to {dtype}")
        count = len(tensor.data) * 8 // tensor.dtype.bits
        values = struct.unpack(f"<{count}{_CODES[tensor.dtype]}", tensor.data)
        data = struct.pack(f"<{count}{_CODES[dtype]}", *values)
        return RawTensor(dtype, tensor.shape, data)


class AnyFramework(ToyFramework):
    """The same for every dtype, to load results with."""

    dtypes = DTYPES


def loaded(path: Path) -> dict[str, RawTensor]:
    """The tensors of a safetensors file or checkpoint."""
    return load_file(path, AnyFramework())


@contextlib.contextmanager
def registered(plugin: Plugin, name: str | None = None) -> Iterator[Plugin]:
    """A plugin that is asked for checkpoints while a block runs."""
    register_framework(ToyFramework())
    manager.register(plugin, name)
    try:
        yield plugin
    finally:
        manager.unregister(plugin)
        # It takes the tensors of other tests' frameworks, too.
        plugins._frameworks.pop(ToyFramework.name, None)
    assert getattr(plugin, "open_files", 0) == 0


class ToyPlugin:
    """Reads ``.toy`` files; counts what is read, and fails on demand."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.failures: dict[str, BaseException] = {}
        self.open_files = 0

    @hookimpl
    def safetensors_read_checkpoint(self, path: str, optimizer: bool) -> Any:
        if not str(path).endswith(".toy"):
            return None
        try:
            document = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise ConversionError(f"damaged: {error}", str(path)) from None
        self.open_files += 1
        held = document["tensors"] | (document.get("optimizer", {}) if optimizer else {})
        return ForeignCheckpoint(
            {name: self._stored(name, *entry) for name, entry in held.items()},
            framework="toy",
            format=document.get("format", "toy"),
            metadata=document.get("metadata", {}),
            left_out={} if optimizer else dict.fromkeys(document.get("optimizer", {}), "optimizer"),
            refused={
                name: UnsupportedDtypeError(dtype, "the safetensors format", tensor=name)
                for name, dtype in document.get("refused", {}).items()
            },
            close=self._close,
        )

    def _close(self) -> None:
        self.open_files -= 1

    def _stored(
        self, name: str, code: str, shape: list[int], data: str, key: str | None = None
    ) -> StoredTensor:
        spec = TensorSpec(Dtype(code), tuple(shape))

        def read() -> RawTensor:
            self.read.append(name)
            if name in self.failures:
                raise self.failures[name]
            return RawTensor(spec.dtype, spec.shape, bytes.fromhex(data))

        def chunks() -> Iterator[bytes]:
            content = read().data
            yield bytes(content[:3])
            yield bytes(content[3:])

        return StoredTensor(spec, read, chunks if len(data) > 6 else None, key)


def write_toy(
    path: Path,
    tensors: Mapping[str, RawTensor],
    *,
    optimizer: Mapping[str, RawTensor] | None = None,
    keys: Mapping[str, str] | None = None,
    **fields: Any,
) -> Path:
    """Write a file in the toy format; names of equal keys stand for one tensor."""

    def entries(tensors: Mapping[str, RawTensor]) -> dict[str, list[Any]]:
        return {
            name: [
                tensor.dtype.value,
                list(tensor.shape),
                bytes(tensor.data).hex(),
                (keys or {}).get(name),
            ]
            for name, tensor in tensors.items()
        }

    document = {"tensors": entries(tensors), "optimizer": entries(optimizer or {}), **fields}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
