"""`TorchFramework`: tensors of PyTorch on any of its devices."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import torch

from safetensors_core import (
    ByteSource,
    Dtype,
    InvalidInputError,
    PreparedTensors,
    TensorInfo,
    TensorSpec,
    UnsupportedDtypeError,
    collector,
)
from safetensors_core.transfer import indexes_there, upload
from safetensors_torch.accelerator import CudaAccelerator, pays_off
from safetensors_torch.blocks import tensors_in_blocks
from safetensors_torch.description import DTYPES, describe, describe_all
from safetensors_torch.filling import FillableTensors
from safetensors_torch.indexing import apply_index
from safetensors_torch.lending import lend
from safetensors_torch.memory import is_wrapper
from safetensors_torch.ordinary import prepare_ordinary
from safetensors_torch.sharing import check_sharing
from safetensors_torch.staging import staged_buffers
from safetensors_torch.views import contiguous_strides

__all__ = ["TorchFramework", "as_device", "swap_bytes", "torch_shape"]

# What NumPy has as well, under its own short names.
_NUMPY_TYPES = {
    Dtype.BOOL: "?",
    Dtype.U8: "u1",
    Dtype.I8: "i1",
    Dtype.I16: "i2",
    Dtype.F16: "f2",
    Dtype.I32: "i4",
    Dtype.F32: "f4",
    Dtype.C64: "c8",
    Dtype.F64: "f8",
    Dtype.I64: "i8",
}
_CPU = torch.device("cpu")
_LENT = 1024  # tensors whose memory is lent at once


class TorchFramework(FillableTensors):
    """PyTorch tensors.

    Tensors on the CPU alias the buffer that they come from, each with a storage of exactly its
    own bytes; on another device they are copies. F4 is torch's packed ``float4_e2m1fn_x2``,
    whose last dimension is half as long as the file says. F6 does not exist in torch.

    Example:
        >>> TorchFramework().describe(torch.zeros(2, 3, dtype=torch.bfloat16))
        TensorSpec(dtype=<Dtype.BF16: 'BF16'>, shape=(2, 3))
    """

    name: ClassVar[str] = "torch"
    native_package: ClassVar[str] = "torch"
    dtypes: Mapping[Dtype, torch.dtype] = DTYPES
    aliases_on_load: ClassVar[bool] = True
    aliases_on_save: ClassVar[bool] = True

    def cast(self, tensor: torch.Tensor, dtype: Dtype) -> torch.Tensor:
        """A tensor with its elements rounded to another floating-point dtype."""
        target = DTYPES.get(dtype)
        if target is None or not (target.is_floating_point and tensor.is_floating_point()):
            raise InvalidInputError(f"torch cannot round {tensor.dtype} to {dtype}")
        try:
            return tensor.detach().to(target)
        except (RuntimeError, NotImplementedError) as error:
            raise InvalidInputError(f"torch cannot round {tensor.dtype} to {dtype}") from error

    def permute(self, tensor: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        """A view of a tensor with its dimensions in another order."""
        try:
            return tensor.detach().permute(axes)
        except (RuntimeError, IndexError) as error:
            raise InvalidInputError(
                f"a tensor of shape {list(tensor.shape)} has no axes {list(axes)}"
            ) from error

    def devices(self) -> tuple[str, ...]:
        """The host, and the accelerators that torch finds."""
        if not torch.accelerator.is_available():
            return ("cpu",)
        kind = torch.accelerator.current_accelerator()
        count = torch.accelerator.device_count()
        return ("cpu", *(f"{kind}:{number}" for number in range(count)))

    def is_tensor(self, obj: object) -> bool:
        """Whether an object is a tensor, a parameter or a buffer."""
        return isinstance(obj, torch.Tensor)

    def describe(self, tensor: torch.Tensor) -> TensorSpec:
        """Dtype and shape of a tensor in the file."""
        return describe(tensor)

    def describe_all(self, tensors: Iterable[torch.Tensor]) -> list[TensorSpec]:
        """Dtypes and shapes of tensors; those of ordinary ones in a tenth of the time."""
        return describe_all(list(tensors))

    def prepare(self, tensors: Mapping[str, torch.Tensor]) -> PreparedTensors:
        """All that a save asks before it writes; all at once where all tensors are ordinary."""
        return prepare_ordinary(tensors, self._lent_buffers) or super().prepare(tensors)

    def to_buffers(self, tensors: Iterable[torch.Tensor]) -> Iterator[memoryview]:
        """The bytes of tensors; aliases those that are contiguous on the CPU.

        Those of CUDA devices are copied to the host while the caller writes the ones before.
        """
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return staged_buffers(tensors, self._lent_buffers)
        return self._lent_buffers(tensors)

    def to_buffer(self, tensor: torch.Tensor) -> memoryview:
        """The bytes of a tensor; aliases one that is contiguous on the CPU."""
        host = tensor.detach()
        if host.device != _CPU:
            host = host.to(_CPU)
        if host.is_conj() or host.is_neg():  # marked to be computed when it is read
            host = host.resolve_conj().resolve_neg()
        if host._is_zerotensor():  # all zeros, at no address
            host = torch.zeros(host.shape, dtype=host.dtype)
        host = host.contiguous()
        if sys.byteorder == "big":
            host = swap_bytes(host)
        # The buffer protocol without NumPy, which torch does not require. The attribute keeps
        # the tensor alive as long as its memory is in use.
        memory = (ctypes.c_char * host.nbytes).from_address(host.data_ptr())
        memory.owner = host  # type: ignore[attr-defined]
        return memoryview(memory).cast("B")

    def _lent_buffers(self, tensors: Iterable[torch.Tensor]) -> Iterator[memoryview]:
        remaining = iter(tensors)
        while some := list(islice(remaining, _LENT)):
            buffers = lend(some)
            if all(buffers):
                yield from buffers  # type: ignore[misc]  # none of them is None
                continue
            for tensor, buffer in zip(some, buffers, strict=True):
                yield self.to_buffer(tensor) if buffer is None else buffer

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, torch.Tensor]:
        """Tensors from a source; on the ``meta`` device without reading any data.

        On a CUDA device they share blocks of up to 256 MiB, and each has a storage of its own.
        """
        target = as_device(device)
        if target.type == "meta":
            self.check_dtypes(infos)
            return self.from_buffers(memoryview(b""), infos, device)
        if not pays_off(target, infos):
            return super().load(source, infos, device)
        self.check_dtypes(infos)
        shapes = {name: torch_shape(name, info) for name, info in infos.items()}
        blocks, places = upload(source, infos, CudaAccelerator(target))
        parts = (
            (*places[name], DTYPES[info.dtype], shapes[name])
            for name, info in infos.items()
            if name in places
        )
        with collector.paused():
            made = tensors_in_blocks(blocks, parts)
            return {
                name: next(made) if name in places else _empty(name, info, target)
                for name, info in infos.items()
            }

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, torch.Tensor]:
        """Tensors over a buffer, moved to the device one by one."""
        target = as_device(device)
        if target.type == "meta":
            return {name: _empty(name, info, target) for name, info in infos.items()}
        tensors = _over_buffer(buffer, infos)
        if target != _CPU:
            for name, tensor in tensors.items():
                tensors[name] = tensor.to(target)
        return tensors

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> torch.Tensor:
        """A tensor with an index applied: on the host where that leaves less to be moved."""
        target = as_device(device)
        host = "meta" if target.type == "meta" else _CPU
        tensor = self.from_buffers(buffer, {"": info}, host)[""]
        if not (_is_accelerator(target) and indexes_there(index, info.shape)):
            return apply_index(tensor, index, info.shape).to(target)
        part = apply_index(tensor.to(target), index, info.shape)
        # A view would keep all of the device's memory that was filled.
        return part if _is_alone(part) else part.clone(memory_format=torch.contiguous_format)

    def prefers_map(self, device: Any) -> bool:
        """Whether a device is the host, or one on which no data is read."""
        try:
            return device is None or torch.device(device).type in {"cpu", "meta"}
        except (RuntimeError, TypeError, ValueError):  # no device; loading will say so
            return True

    def storage_key(self, tensor: torch.Tensor) -> Hashable | None:
        """Device and address of the storage; None for a tensor without data, or a wrapper."""
        if tensor.is_meta or is_wrapper(tensor) or not tensor.numel():
            return None
        return (str(tensor.device), tensor.untyped_storage().data_ptr())

    def check_saveable(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors that overlap in memory."""
        check_sharing(tensors)


def as_device(device: Any) -> torch.device:
    """A device as torch spells it: a name, a `torch.device`, an index, or None for the CPU.

    Args:
        device: ``"cuda:1"``, ``1``, ``torch.device("cuda")`` and the like.

    Returns:
        The device, which is known to work.

    Raises:
        InvalidInputError: torch knows no such device or cannot use it here.

    Example:
        >>> as_device("cpu")
        device(type='cpu')
    """
    if device is None or device == "cpu":
        return _CPU
    try:
        found = torch.device(device)
        # A device that cannot be used is to be noticed before anything is read for it.
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise InvalidInputError(f"device {device!r} cannot be used: {cause}") from error
    return found


def _over_buffer(buffer: memoryview, infos: Mapping[str, TensorInfo]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU that alias a buffer, each with a storage of its own bytes only."""
    if buffer.readonly:  # torch would let its users write through it
        buffer = memoryview(bytearray(buffer))
    # One tensor is made before NumPy's view of the buffer would be.
    made = _over_numpy(buffer, infos) if len(infos) > 1 and buffer else {}
    if len(made) == len(infos):
        return made
    strides: dict[tuple[int, ...], tuple[int, ...]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, info in infos.items():
        begin, end = info.data_offsets
        if name in made:
            tensors[name] = made[name]
            continue
        if begin == end:
            tensors[name] = _empty(name, info, _CPU)
            continue
        shape = info.shape if info.dtype is not Dtype.F4 else torch_shape(name, info)
        tensor = _flat(buffer, DTYPES[info.dtype], begin, end)
        if len(shape) != 1:
            steps = strides.get(shape)
            if steps is None:
                steps = strides[shape] = contiguous_strides(shape)
            # In place: a view would cost a second tensor and remember the first as its base.
            tensor.as_strided_(shape, steps)
        tensors[name] = tensor
    return tensors


def _flat(buffer: memoryview, dtype: torch.dtype, begin: int, end: int) -> torch.Tensor:
    """A tensor of one dimension over a part of a buffer; a copy where it lies unaligned."""
    item = dtype.itemsize
    tensor = torch.frombuffer(buffer, dtype=dtype, count=(end - begin) // item, offset=begin)
    if tensor.data_ptr() % item:
        whole = torch.frombuffer(buffer, dtype=torch.uint8, count=end - begin, offset=begin)
        tensor = whole.clone().view(dtype)
    return swap_bytes(tensor) if sys.byteorder == "big" else tensor


def _over_numpy(buffer: memoryview, infos: Mapping[str, TensorInfo]) -> dict[str, torch.Tensor]:
    """Those tensors over a buffer that can be made in a faster way.

    torch has no call that gives a tensor over a buffer its shape at once. NumPy's arrays have
    one from the start, and torch takes them as they are: that takes half the time. NumPy is not
    imported for it, because importing it takes longer than most files.
    """
    numpy: Any = sys.modules.get("numpy")
    types = {} if numpy is None or sys.byteorder == "big" else _types_of(numpy)
    if not types:
        return {}
    memory = numpy.frombuffer(buffer, numpy.uint8)
    make, address, find = numpy.ndarray, memory.ctypes.data, types.get
    arrays: dict[str, Any] = {}
    for name, info in infos.items():
        found = find(info.dtype)
        begin = info.data_offsets[0]
        if found is None or (address + begin) % found[1]:
            continue
        try:
            arrays[name] = make(info.shape, found[0], memory, begin)
        except ValueError:  # more dimensions than NumPy has
            continue
    # One library after the other: taking turns for each tensor costs a fifth more.
    return dict(zip(arrays, map(torch.from_numpy, arrays.values()), strict=True))


@functools.lru_cache(maxsize=1)
def _types_of(numpy: Any) -> dict[Dtype, tuple[Any, int]]:
    """NumPy's names for what both have, with the bytes of an element."""
    try:
        torch.from_numpy(numpy.empty(0))
    except RuntimeError:  # a torch that was built for another version of NumPy
        return {}
    return {code: (numpy.dtype(name), code.bits // 8) for code, name in _NUMPY_TYPES.items()}


def _empty(name: str, info: TensorInfo, device: torch.device) -> torch.Tensor:
    """A tensor without data, or with none in it."""
    try:
        return torch.empty(torch_shape(name, info), dtype=DTYPES[info.dtype], device=device)
    except (RuntimeError, TypeError) as error:  # torch computes with signed 64-bit numbers
        raise InvalidInputError(
            f"tensor {name!r}: torch has no tensor of its shape {list(info.shape)}"
        ) from error


def _is_accelerator(device: torch.device) -> bool:
    return device.type not in {"cpu", "meta"}


def _is_alone(tensor: torch.Tensor) -> bool:
    """Whether a tensor has all of its storage, in order."""
    return tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()


def torch_shape(name: str, info: TensorInfo) -> tuple[int, ...]:
    """Shape of a tensor in torch, where two F4 elements are one.

    Args:
        name: Its name, as errors show it.
        info: Its entry in the header.

    Raises:
        UnsupportedDtypeError: Elements of F4 do not come in pairs.

    Example:
        >>> torch_shape("w", TensorInfo(Dtype.F4, (3, 4), (0, 6)))
        (3, 2)
    """
    shape = info.shape
    if info.dtype is not Dtype.F4:
        return shape
    if not shape or shape[-1] % 2:
        raise UnsupportedDtypeError(
            f"F4 of shape {list(shape)}",
            "torch",
            tensor=name,
            remedy="torch packs two elements, so the last dimension must be even",
        )
    return (*shape[:-1], shape[-1] // 2)


def swap_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Reverse the bytes of every number: for machines and files that are not little-endian.

    Args:
        tensor: A tensor on the host. Not changed.

    Example:
        >>> swap_bytes(torch.tensor([256], dtype=torch.int16))
        tensor([1], dtype=torch.int16)
    """
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
    flat = tensor.reshape(-1).view(torch.uint8).reshape(-1, width)
    return flat.flip(1).reshape(-1).view(tensor.dtype).reshape(tensor.shape)
