"""ONNX models: their initializers, in the model and in files beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from safetensors_core import ConversionError, Dtype, SafetensorError, UnsupportedDtypeError
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_numpy.checkpoints.external import ExternalFiles
from safetensors_numpy.checkpoints.stored import (
    checked_shape,
    checked_spec,
    faults,
    in_memory,
)
from safetensors_numpy.packing import pack

__all__ = ["read_onnx"]

# TensorProto.DataType, whose numbers are the standard's; older libraries do not know the last.
_DTYPES = {
    1: Dtype.F32,
    2: Dtype.U8,
    3: Dtype.I8,
    4: Dtype.U16,
    5: Dtype.I16,
    6: Dtype.I32,
    7: Dtype.I64,
    9: Dtype.BOOL,
    10: Dtype.F16,
    11: Dtype.F64,
    12: Dtype.U32,
    13: Dtype.U64,
    14: Dtype.C64,
    16: Dtype.BF16,
    17: Dtype.F8_E4M3,
    18: Dtype.F8_E4M3FNUZ,
    19: Dtype.F8_E5M2,
    20: Dtype.F8_E5M2FNUZ,
    23: Dtype.F4,
    24: Dtype.F8_E8M0,
    27: Dtype.F6_E2M3,
    28: Dtype.F6_E3M2,
}
_REFUSED = {0: "UNDEFINED", 8: "STRING", 15: "COMPLEX128"}
_REFUSED |= {21: "UINT4", 22: "INT4", 25: "UINT2", 26: "INT2"}

# Where values are that are not raw bytes, and as what; all others are in `int32_data`, in the low
# bits of one entry each.
_FIELDS = {
    Dtype.F32: ("float_data", "<f4"),
    Dtype.C64: ("float_data", "<f4"),  # real and imaginary parts in turn
    Dtype.F64: ("double_data", "<f8"),
    Dtype.I64: ("int64_data", "<i8"),
    Dtype.U32: ("uint64_data", "<u4"),
    Dtype.U64: ("uint64_data", "<u8"),
    Dtype.I32: ("int32_data", "<i4"),
}
_ENTRY_BITS = {Dtype.C64: 32, Dtype.F4: 8}  # of a tensor in an entry, where not one element
_EXTERNAL = 1
_MOST_BYTES = 2**31 - 1  # of a message of protobuf


def read_onnx(path: str | os.PathLike[str]) -> ForeignCheckpoint:
    """Read the initializers of an ONNX model, those of its subgraphs among them.

    An initializer of a subgraph (a branch of `If`, the body of a `Loop`) is named
    ``node/attribute/name``, because the names of two branches may be equal. Constants are no
    weights: they are left out, and listed.

    Args:
        path: The model. Bytes of its tensors may be in other files of its folder.

    Returns:
        The checkpoint. Memory holds the file of the model and one tensor; while it is opened,
        the file twice. Of bytes that are in other files it holds one chunk at a time. Sparse
        initializers are refused, and those of a type that the safetensors format has not.

    Raises:
        UnsafeCheckpointError: Bytes are outside of the model's folder.
        ConversionError: It is damaged, or `onnx` is not installed.

    Example:
        >>> import onnx
        >>> bias = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "bias")
        >>> graph = onnx.helper.make_graph([], "empty", [], [], [bias])
        >>> onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
        >>> read_onnx(tmp_path / "model.onnx").tensors["bias"].read()
        array([0., 0., 0.], dtype=float32)
    """
    location = os.fsdecode(path)
    with faults(location, "the model"):
        return _read(_parsed(location), location)


def _parsed(location: str) -> Any:
    try:
        from onnx import ModelProto
    except ImportError:
        raise ConversionError(
            'ONNX is read with the package onnx. Try: pip install "safetensors-numpy[onnx]"',
            location,
        ) from None
    with open(location, "rb") as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise ConversionError(
                "the model has more than 2 GiB, which protobuf cannot read; save it again with "
                "external data: onnx.save(..., save_as_external_data=True)",
                location,
            )
        return ModelProto.FromString(file.read())


def _read(model: Any, location: str) -> ForeignCheckpoint:
    if not model.HasField("graph"):
        raise ConversionError("the model ends before its graph", location)
    found = _Initializers(location)
    found.add_graph(model.graph, "")
    for function in model.functions:
        found.add_nodes(function.node, f"{function.name}/")
    found.files.check_overlaps()
    if model.training_info:
        found.left_out["training_info"] = "graphs for training, not weights"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    for field in ("producer_name", "producer_version", "domain", "ir_version", "model_version"):
        if value := getattr(model, field):
            metadata[field] = str(value)
    return ForeignCheckpoint(
        found.tensors,
        framework="numpy",
        format="np",
        metadata=metadata,
        left_out=found.left_out,
        refused=found.refused,
    )


class _Initializers:
    """The initializers of a graph and of those within it."""

    def __init__(self, location: str) -> None:
        self._location = location
        self.files = ExternalFiles(location)
        self.tensors: dict[str, StoredTensor] = {}
        self.left_out: dict[str, str] = {}
        self.refused: dict[str, SafetensorError] = {}

    def add_graph(self, graph: Any, prefix: str) -> None:
        for sparse in graph.sparse_initializer:
            name = self._unique(prefix + sparse.values.name)
            self.refused[name] = ConversionError(
                f"initializer {name!r} is sparse, which the safetensors format has not: write it "
                "as a dense one",
                self._location,
            )
        for proto in graph.initializer:
            name = self._unique(prefix + proto.name)
            try:
                self.tensors[name] = self._stored(name, proto)
            except UnsupportedDtypeError as error:
                self.refused[name] = error.with_traceback(None)  # whose frames would hold the model
        self.add_nodes(graph.node, prefix)

    def add_nodes(self, nodes: Iterable[Any], prefix: str) -> None:
        for number, node in enumerate(nodes):
            if node.op_type == "Constant" and node.output:
                self.left_out[prefix + node.output[0]] = "a constant of the graph, not a weight"
            called = node.name or f"{node.op_type}_{number}"
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    self.add_graph(graph, f"{prefix}{called}/{attribute.name}/")

    def _unique(self, name: str) -> str:
        if name in self.tensors or name in self.refused:
            raise ConversionError(f"there are two initializers {name!r}", self._location)
        return name

    def _stored(self, name: str, proto: Any) -> StoredTensor:
        location = self._location
        dtype = _DTYPES.get(proto.data_type)
        if dtype is None:
            called = _REFUSED.get(proto.data_type, f"number {proto.data_type} of ONNX")
            error = UnsupportedDtypeError(called, "the safetensors format", tensor=name)
            error.location = location
            raise error
        shape = tuple(proto.dims)
        if proto.HasField("segment"):
            raise ConversionError(f"tensor {name!r} is in segments, which nobody writes", location)
        if proto.data_location == _EXTERNAL:
            places = {entry.key: entry.value for entry in proto.external_data}
            return self.files.tensor(name, checked_shape(name, dtype, shape, location), places)
        if proto.HasField("raw_data"):
            spec = checked_spec(name, dtype, shape, len(proto.raw_data), location)
            return in_memory(spec, lambda: proto.raw_data)
        field, kind = _FIELDS.get(dtype, ("int32_data", ""))
        entries = len(getattr(proto, field))
        held = (entries * _ENTRY_BITS.get(dtype, dtype.bits) + 7) // 8
        spec = checked_spec(name, dtype, shape, held, location)
        return in_memory(spec, lambda: _entries(proto, dtype, field, kind).data)


def _entries(proto: Any, dtype: Dtype, field: str, kind: str) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor whose values are numbers of protobuf."""
    entries = getattr(proto, field)
    if kind:
        return np.fromiter(entries, kind, len(entries)).view(np.uint8)
    values = np.fromiter(entries, np.int32, len(entries))
    if dtype.bits == 6:
        return pack(values.astype(np.uint8), 6)
    return values.astype("<u2" if dtype.bits == 16 else np.uint8).view(np.uint8)
