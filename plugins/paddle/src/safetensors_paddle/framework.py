"""`PaddleFramework`: dense tensors of PaddlePaddle on any of its devices."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import paddle

from safetensors_core import (
    ByteSource,
    Dtype,
    InvalidInputError,
    TensorInfo,
    TensorSpec,
    UnsupportedDtypeError,
)
from safetensors_core.strides import may_overlap
from safetensors_core.transfer import download, indexes_there, neighbours, read_windows
from safetensors_numpy.framework import NumpyFramework
from safetensors_numpy.host import HostFramework
from safetensors_numpy.overlaps import check_overlaps
from safetensors_paddle.accelerator import large_ones, load_to_gpu
from safetensors_paddle.devices import find_place
from safetensors_paddle.host_memory import DTYPES, from_carrier, has_views, tensors_over

__all__ = ["PaddleFramework"]

Array = npt.NDArray[Any]

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_ARRAY_TYPES = {code: NumpyFramework.dtypes[code] for code in DTYPES}
_NUMPY = NumpyFramework()
_CODES_OF_ARRAYS = {dtype: code for code, dtype in _ARRAY_TYPES.items()}
_FLOATS = {code for code in DTYPES if code.startswith(("F", "BF"))}

# Integers by the bytes of an element.
_WORDS = {1: paddle.uint8, 2: paddle.int16, 4: paddle.int32, 8: paddle.int64}

# The last two are made in static graph mode: descriptions of tensors, with no data. They come
# last, because Paddle passes every tensor off as a `Variable` to whoever asks.
_KINDS = (paddle.Tensor, paddle.pir.Value, paddle.static.Variable)


class PaddleFramework(HostFramework):
    """PaddlePaddle tensors.

    Tensors on the CPU alias the buffer that they come from; on another device they are copies.
    They take no part in gradients (`stop_gradient` is True), as those that Paddle loads itself.

    Example:
        >>> PaddleFramework().describe(paddle.zeros([2, 3], dtype="bfloat16"))
        TensorSpec(dtype=<Dtype.BF16: 'BF16'>, shape=(2, 3))
    """

    name: ClassVar[str] = "paddle"
    native_package: ClassVar[str] = "paddle"
    dtypes: Mapping[Dtype, Any] = DTYPES
    aliases_on_load: ClassVar[bool] = True
    aliases_on_save: ClassVar[bool] = True

    def devices(self) -> tuple[str, ...]:
        """The host, and the devices that this build of Paddle finds."""
        return ("cpu", *(name for name in paddle.device.get_available_device() if name != "cpu"))

    def is_tensor(self, obj: object) -> bool:
        """Whether an object is a tensor, a parameter, or a variable of a static graph."""
        return isinstance(obj, _KINDS)

    def describe(self, tensor: Any) -> TensorSpec:
        """Dtype and shape of a tensor in the file."""
        _check_saveable(tensor)
        dtype = tensor.dtype
        code = _CODES.get(dtype)
        if code is None:
            # Some of Paddle's types print as another one: the name is right.
            raise UnsupportedDtypeError(
                dtype.name.lower(),
                "what safetensors-paddle saves",
                remedy="Convert the tensor with astype(), or a complex one with paddle.as_real()",
            )
        return TensorSpec(code, tuple(tensor.shape))

    def check_dtypes(self, infos: Mapping[str, TensorInfo]) -> None:
        """Refuse what Paddle cannot represent, and say how to load it nevertheless."""
        try:
            super().check_dtypes(infos)
        except UnsupportedDtypeError as error:
            error.remedy = 'NumPy has it: load it with framework="numpy" and convert it'
            raise

    def find_device(self, device: Any) -> Any:
        """Paddle's place for a device."""
        return find_place(device)

    def to_buffer(self, tensor: Any) -> memoryview:
        """The bytes of a tensor; aliases one that is contiguous on the CPU."""
        host = tensor if tensor.place.is_cpu_place() else tensor.cpu()
        if not host.is_contiguous():
            # Not by `contiguous()`: it gives the tensor itself new memory, so that a view would no
            # longer be one.
            return _NUMPY.to_buffer(self.to_array(host))
        return _memory(host, _nbytes(host))

    def to_buffers(self, tensors: Iterable[Any]) -> Iterator[memoryview]:
        """The bytes of tensors; those of devices are copied while the ones before are written."""
        if self.devices() == ("cpu",):
            return map(self.to_buffer, tensors)
        groups = neighbours(tensors, _nbytes, lambda tensor: str(tensor.place))
        return download(groups, lambda group: [self.to_buffer(tensor) for tensor in group])

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> Any:
        """A tensor with an index applied: on the host where that leaves less to be moved."""
        place = find_place(device)
        if not place.is_cpu_place() and has_views() and indexes_there(index, info.shape):
            # Where the device has no kernel or no room for it, the host has.
            with contextlib.suppress(MemoryError, RuntimeError):
                whole = tensors_over(buffer, {"": info})[""]._copy_to(place, True)
                return _sliced(whole, index)
        return self.from_array(_NUMPY.index(buffer, info, index, None), place)

    def to_array(self, tensor: Any) -> Array:
        """A tensor as an array over its memory, of NumPy's or `ml_dtypes`' type."""
        dtype, shape = _ARRAY_TYPES[_CODES[tensor.dtype]], tuple(tensor.shape)
        if 0 in shape:
            return np.empty(shape, dtype)
        return _array_over(tensor if tensor.place.is_cpu_place() else tensor.cpu())

    def from_array(self, array: Array, device: Any) -> Any:
        """A tensor of an array; aliases one that is contiguous on the CPU."""
        code = _CODES_OF_ARRAYS[array.dtype.newbyteorder("<")]
        tensor = from_carrier(array, code)
        return tensor if device.is_cpu_place() else tensor._copy_to(device, True)

    def prefers_map(self, device: Any) -> bool:
        """Whether a device is the host."""
        try:
            return bool(find_place(device).is_cpu_place())
        except InvalidInputError:  # loading will say it
            return True

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Any]:
        """Tensors from a source; some are copied to a device while the next ones are read."""
        place = find_place(device)
        if place.is_cpu_place():
            return super().load(source, infos, place)
        self.check_dtypes(infos)
        loaded: dict[str, Any] = dict.fromkeys(infos)
        large = large_ones(place, infos)
        loaded.update(load_to_gpu(source, large, place) if large else {})
        others = {name: info for name, info in infos.items() if name not in large}
        for buffer, placed in read_windows(source, others):
            loaded.update(self.from_buffers(buffer, placed, place))
        return loaded

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Any]:
        """Tensors over a buffer, moved to the device one by one."""
        place = find_place(device)
        tensors = tensors_over(buffer, infos)
        if not place.is_cpu_place():
            for name, tensor in tensors.items():
                tensors[name] = tensor._copy_to(place, True)
        return tensors

    def cast(self, tensor: Any, dtype: Dtype) -> Any:
        """A tensor of another floating-point type, as `astype` rounds it.

        What is out of range becomes infinity, but the largest number in F8_E5M2. F8_E4M3 is
        refused, because Paddle makes its largest number of NaN.
        """
        present = self.describe(tensor).dtype
        if (
            present not in _FLOATS
            or dtype not in _FLOATS
            or (dtype is Dtype.F8_E4M3 and present is not dtype)
        ):
            raise InvalidInputError(
                f"Paddle does not convert {present} to {dtype}; only floating-point types, and "
                "not to F8_E4M3, where it would make a number of NaN"
            )
        return tensor.detach().astype(DTYPES[dtype])

    def permute(self, tensor: Any, axes: tuple[int, ...]) -> Any:
        """A view of a tensor with its dimensions in another order."""
        dimensions = len(self.describe(tensor).shape)
        if sorted(axes) != list(range(dimensions)):
            raise InvalidInputError(f"{axes} is no order of {dimensions} dimensions")
        return paddle.transpose(tensor.detach(), list(axes))

    def check_fillable(self, tensors: Mapping[str, Any]) -> None:
        """Refuse views with gaps that overlap; what is not dense cannot even be described."""
        views = []
        for name, tensor in tensors.items():
            if tensor.is_contiguous():
                continue
            if may_overlap(tensor.shape, tensor.strides):
                raise InvalidInputError(
                    f"tensor {name!r} is a view in which several elements are one in memory. Fill "
                    "a clone() of it"
                )
            views.append(name)
        if views:
            filled = {name: tensor for name, tensor in tensors.items() if 0 not in tensor.shape}
            check_overlaps({name: _array_over(tensor) for name, tensor in filled.items()}, views)

    def memory(self, tensor: Any) -> memoryview | None:
        """The memory of a contiguous tensor on the CPU; counts as a change of the tensor."""
        if not tensor.place.is_cpu_place() or not tensor.is_contiguous():
            return None
        tensor._bump_inplace_version()
        return _memory(tensor, _nbytes(tensor))

    def assign(self, tensor: Any, value: Any) -> None:
        """Copy a tensor into another, on whatever devices they are."""
        with paddle.no_grad():
            tensor.copy_(value, True)

    def storage_key(self, tensor: Any) -> Hashable | None:
        """Device and address of the memory; None for a tensor without data."""
        if not isinstance(tensor, paddle.Tensor) or not tensor._is_initialized():
            return None
        return (str(tensor.place), tensor.data_ptr() - tensor.offset)


def _nbytes(tensor: Any) -> int:
    nbytes: int = math.prod(tensor.shape) * tensor.element_size()
    return nbytes


def _sliced(tensor: Any, index: tuple[Any, ...]) -> Any:
    """The part of a tensor that slices select, in one piece and with memory of its own size."""
    # Every kernel has integers, but not all have Paddle's rarer types.
    whole = paddle.view(tensor, _WORDS[tensor.element_size()])
    part = whole[index] if index else whole
    if math.prod(part.shape) < math.prod(whole.shape) or not part.is_contiguous():
        part = part.clone()
    return paddle.view(part, tensor.dtype)


def _array_over(tensor: Any) -> Array:
    """An array at the address of a tensor that is not empty; on a device, it is not to be read."""
    dtype, shape = _ARRAY_TYPES[_CODES[tensor.dtype]], tuple(tensor.shape)
    steps = [step * dtype.itemsize for step in tensor.strides]
    reaches = [(n - 1) * step for n, step in zip(shape, steps, strict=True)]
    # Backwards, a tensor reaches to addresses before that of its first element.
    before = -sum(reach for reach in reaches if reach < 0)
    after = sum(reach for reach in reaches if reach > 0)
    memory = _memory(tensor, after + dtype.itemsize, before)
    array: Array = np.ndarray(shape, dtype, memory, before, steps)
    return array


def _memory(tensor: Any, nbytes: int, before: int = 0) -> memoryview:
    """The bytes before and from a CPU tensor's first element on; they live with the result."""
    # Paddle's own way to an array, numpy(), copies.
    memory = (ctypes.c_char * (before + nbytes)).from_address(tensor.data_ptr() - before)
    memory.owner = tensor  # type: ignore[attr-defined]
    return memoryview(memory).cast("B")


def _check_saveable(tensor: Any) -> None:
    if not isinstance(tensor, paddle.Tensor):
        raise InvalidInputError(
            "a variable of a static graph has no data: save the tensors that an executor "
            "fetches or the state dict of a layer"
        )
    if not paddle.in_dynamic_mode():
        # Paddle's operations end the process when they are given tensors in this mode.
        raise InvalidInputError(
            "Paddle is in static graph mode: call paddle.disable_static() before saving tensors"
        )
    if not tensor.is_dense():
        raise InvalidInputError(_remedy(tensor))
    if not tensor._is_initialized() and 0 not in tensor.shape:
        raise InvalidInputError(
            "an uninitialized parameter has no data yet: call its initialize() before it is saved"
        )


def _remedy(tensor: Any) -> str:
    if tensor.is_dist():
        return (
            "a distributed tensor has a part of its data here only: save what "
            "paddle.distributed.unshard_dtensor() returns"
        )
    if tensor.is_sparse():
        return (
            "a sparse tensor cannot be saved: convert it with to_dense(), or save its values "
            "and indices as tensors of their own"
        )
    if tensor.is_selected_rows():
        return "selected rows cannot be saved: they are the gradient of some rows only"
    return f"a {type(tensor).__name__} that is not dense cannot be saved"
