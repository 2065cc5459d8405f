"""The NumPy plugin broken in one way at a time: each must make the conformance kit fail.

The environment variable MUTANT names the one that is registered where this module is imported.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import numpy as np

from safetensors_core import Dtype, TensorInfo, TensorSpec, register_framework
from safetensors_core.testing.observation import address
from safetensors_numpy.framework import NumpyFramework

SWAPPED = {Dtype.F16: Dtype.BF16, Dtype.BF16: Dtype.F16, Dtype.I32: Dtype.U32}


class ForeignByteOrderOnLoad(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return {name: array.byteswap() for name, array in arrays.items()}


class ForeignByteOrderBothWays(ForeignByteOrderOnLoad):
    def to_buffer(self, tensor: Any) -> memoryview:
        return super().to_buffer(np.asarray(tensor).byteswap())


class CopyOnLoad(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return {name: array.copy() for name, array in arrays.items()}


class CopyOnSave(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        return memoryview(bytes(super().to_buffer(tensor)))


class StridesLost(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        return memoryview(ctypes.string_at(np.asarray(tensor).ctypes.data, tensor.nbytes))


class OrderOfMemory(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        return memoryview(np.asarray(tensor).tobytes("A"))


class OrderOfFortran(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        return memoryview(np.asarray(tensor).tobytes("F"))


class DtypesSwappedBothWays(NumpyFramework):
    """F16 for BF16 and the other way round: what is saved loads again, and all of it is wrong."""

    dtypes = {
        code: NumpyFramework.dtypes[SWAPPED.get(code, code)]
        for code in NumpyFramework.dtypes
        if code is not Dtype.I32
    }

    def describe(self, tensor: Any) -> TensorSpec:
        spec = super().describe(tensor)
        return TensorSpec(SWAPPED.get(spec.dtype, spec.dtype), spec.shape)

    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return {
            name: array.view(self.dtypes[infos[name].dtype])
            if infos[name].dtype in SWAPPED
            else array
            for name, array in arrays.items()
        }


class BooleansAsBytes(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return {n: a.view("u1") if a.dtype == bool else a for n, a in arrays.items()}


class Narrowed(NumpyFramework):
    """F64 is not declared, and loaded all the same."""

    dtypes = {code: kind for code, kind in NumpyFramework.dtypes.items() if code is not Dtype.F64}

    def check_dtypes(self, infos: Any) -> None:
        pass

    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return {n: a.astype("f4") if a.dtype == "f8" else a for n, a in arrays.items()}


class MemoryNotKept(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        loose = (ctypes.c_char * len(buffer)).from_address(address(buffer))
        return super().from_buffers(memoryview(loose).cast("B"), infos, device)


class MemoryNeverReleased(NumpyFramework):
    kept: list[Any] = []

    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        self.kept.append(buffer)
        return super().from_buffers(buffer, infos, device)


class ReadOnlyMemoryWrittenTo(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        writable: Any = (ctypes.c_char * len(buffer)).from_address(address(buffer))
        writable.keeps = buffer
        return super().from_buffers(memoryview(writable).cast("B"), infos, device)


class SwappedInPlace(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        for array in arrays.values():
            if array.flags.writeable and array.dtype.itemsize == 2:
                array.byteswap(inplace=True)
        return arrays


class OffsetsIgnored(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        first = min((info.data_offsets[0] for info in infos.values()), default=0)
        moved = {
            name: TensorInfo(i.dtype, i.shape, tuple(offset - first for offset in i.data_offsets))
            for name, i in infos.items()
        }
        return super().from_buffers(buffer, moved, device)


class AddressesRounded(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        start = -address(buffer) % 8 if len(buffer) > 64 else 0
        return super().from_buffers(memoryview(bytes(buffer[start:]) + bytes(start)), infos, device)


class NamesSorted(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return dict(sorted(arrays.items(), reverse=True))


class NamesSortedUpwards(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        return dict(sorted(super().from_buffers(buffer, infos, device).items()))


class OffsetsAddedUp(NumpyFramework):
    """Right only for tensors that lie one behind the other."""

    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        at = min((info.data_offsets[0] for info in infos.values()), default=0)
        moved = {}
        for name, info in infos.items():
            moved[name] = TensorInfo(info.dtype, info.shape, (at, at + info.nbytes))
            at = (at + info.nbytes) % (len(buffer) - 1024)
        return super().from_buffers(buffer, moved, device)


class OneDtypeForAll(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        first = next(iter(arrays.values()), np.zeros(0)).dtype
        return {n: a.view(first) if a.itemsize == first.itemsize else a for n, a in arrays.items()}


class FailsWithoutTensors(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        max(info.nbytes for info in infos.values())
        return super().from_buffers(buffer, infos, device)


class EqualTensorsShared(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        found: dict[Any, Any] = {}
        arrays = super().from_buffers(buffer, infos, device)
        return {n: found.setdefault((a.dtype, a.tobytes()), a) for n, a in arrays.items()}


class LargeTensorsCut(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        data = super().to_buffer(tensor)
        cut = bytes(max(0, len(data) - (1 << 24)))
        return memoryview(bytes(data[: len(data) - len(cut)]) + cut) if cut else data


class BytesRemembered(NumpyFramework):
    aliases_on_save = False
    remembered: dict[int, tuple[Any, bytes]] = {}

    def to_buffer(self, tensor: Any) -> memoryview:
        data = bytes(super().to_buffer(tensor))
        return memoryview(self.remembered.setdefault(id(tensor), (tensor, data))[1])


class SlicesOnTheHost(NumpyFramework):
    def devices(self) -> tuple[str, ...]:
        return ("cpu", "acme")

    def load(self, source: Any, infos: Any, device: Any) -> Any:
        arrays = super().load(source, infos, "cpu" if device == "acme" else device)
        kind = type("Placed", (np.ndarray,), {"device": device})
        return {name: array.view(kind) for name, array in arrays.items()}

    def index(self, buffer: Any, info: Any, index: Any, device: Any) -> Any:
        return super().index(buffer, info, index, "cpu")


class NoDevices(NumpyFramework):
    def devices(self) -> tuple[str, ...]:
        return ()


class ScalarsAsVectors(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return {name: np.atleast_1d(array) for name, array in arrays.items()}


class EmptyShapesLost(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        arrays = super().from_buffers(buffer, infos, device)
        return {n: a if a.size else a.reshape(0) for n, a in arrays.items()}


class ShapeReversed(NumpyFramework):
    def describe(self, tensor: Any) -> TensorSpec:
        spec = super().describe(tensor)
        return TensorSpec(spec.dtype, spec.shape[::-1])


class ShapeAsList(NumpyFramework):
    def describe(self, tensor: Any) -> TensorSpec:
        spec = super().describe(tensor)
        return TensorSpec(spec.dtype, list(spec.shape))  # type: ignore[arg-type]


class SignednessLost(NumpyFramework):
    def describe(self, tensor: Any) -> TensorSpec:
        spec = super().describe(tensor)
        return TensorSpec(Dtype.U8 if spec.dtype is Dtype.I8 else spec.dtype, spec.shape)


class EverythingIsATensor(NumpyFramework):
    def is_tensor(self, obj: object) -> bool:
        return True


class NothingIsATensor(NumpyFramework):
    def is_tensor(self, obj: object) -> bool:
        return False


class AttributesAsked(NumpyFramework):
    def is_tensor(self, obj: object) -> bool:
        return hasattr(obj, "dtype") and hasattr(obj, "shape")


class BareScalars(NumpyFramework):
    def index(self, buffer: Any, info: Any, index: Any, device: Any) -> Any:
        found = super().index(buffer, info, index, device)
        return found if found.shape else found.item()


class StepsIgnored(NumpyFramework):
    def index(self, buffer: Any, info: Any, index: Any, device: Any) -> Any:
        plain = tuple(slice(i.start, i.stop) if isinstance(i, slice) else i for i in index)
        return super().index(buffer, info, plain, device)


class NewAxesIgnored(NumpyFramework):
    def index(self, buffer: Any, info: Any, index: Any, device: Any) -> Any:
        return super().index(buffer, info, tuple(i for i in index if i is not None), device)


class KeyOfTheTensor(NumpyFramework):
    def storage_key(self, tensor: Any) -> Any:
        return tensor.ctypes.data


class OneKeyForAll(NumpyFramework):
    def storage_key(self, tensor: Any) -> Any:
        return 0


class OneStagingBuffer(NumpyFramework):
    aliases_on_save = False
    staging = bytearray(1 << 20)

    def to_buffer(self, tensor: Any) -> memoryview:
        data = super().to_buffer(tensor)
        self.staging[: len(data)] = data
        return memoryview(self.staging)[: len(data)]


class BufferFilledAnew(NumpyFramework):
    def to_buffers(self, tensors: Any) -> Any:
        staging = bytearray(1 << 20)
        for tensor in tensors:
            data = self.to_buffer(tensor)
            staging[: len(data)] = data
            yield memoryview(staging)[: len(data)]


class LastByteLost(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        return super().to_buffer(tensor)[:-1]


class NanPayloadsLost(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        if tensor.dtype.kind == "f":
            tensor = np.where(np.isnan(tensor), np.array(np.nan, tensor.dtype), tensor)
        return super().to_buffer(tensor)


class MinusZeroLost(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        if tensor.dtype == "f4":
            tensor = np.where(tensor == 0, np.array(0, "f4"), tensor)
        return super().to_buffer(tensor)


class SubnormalsLost(NumpyFramework):
    def to_buffer(self, tensor: Any) -> memoryview:
        if tensor.dtype == "f4":
            tiny = np.abs(tensor) < np.finfo("f4").tiny
            tensor = np.where(tiny & (tensor != 0), np.array(0, "f4"), tensor)
        return super().to_buffer(tensor)


class AnyDevice(NumpyFramework):
    def load(self, source: Any, infos: Any, device: Any) -> Any:
        return super().load(source, infos, "cpu")


class SlicesOnAnyDevice(NumpyFramework):
    def index(self, buffer: Any, info: Any, index: Any, device: Any) -> Any:
        return super().index(buffer, info, index, "cpu")


class StateOfACall(NumpyFramework):
    def from_buffers(self, buffer: Any, infos: Any, device: Any) -> Any:
        self.infos = infos  # another thread may set it now
        time.sleep(0.001)
        return super().from_buffers(buffer, self.infos, device)


class WrongName(NumpyFramework):
    native_package = "nunpy"


class WrongVersion(NumpyFramework):
    api_version = "1"  # type: ignore[assignment]


class OddAlignment(NumpyFramework):
    alignment = 48


class AliasingNotDeclared(NumpyFramework):
    aliases_on_load = aliases_on_save = False


if "MUTANT" in os.environ:
    mutant = globals()[os.environ["MUTANT"]]()
    if os.environ["MUTANT"] == "WrongVersion":
        mutant.__class__.api_version = 1
        register_framework(mutant)
        mutant.__class__.api_version = "1"
    else:
        register_framework(mutant)
