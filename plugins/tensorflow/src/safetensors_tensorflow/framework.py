"""`TensorflowFramework`: tensors and variables of TensorFlow on any of its devices."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from safetensors_core import (
    ByteSource,
    Dtype,
    InvalidInputError,
    TensorInfo,
    TensorSpec,
    UnsupportedDtypeError,
    collector,
)
from safetensors_core.transfer import read_windows
from safetensors_numpy.alignment import align
from safetensors_numpy.framework import NumpyFramework
from safetensors_numpy.host import HostFramework
from safetensors_tensorflow.devices import HOST, as_device

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["TensorflowFramework"]

Array = npt.NDArray[Any]

_DTYPES: dict[Dtype, tf.DType] = {
    Dtype.BOOL: tf.bool,
    Dtype.F4: tf.dtypes.experimental.float4_e2m1fn,
    Dtype.U8: tf.uint8,
    Dtype.I8: tf.int8,
    Dtype.F8_E5M2: tf.dtypes.experimental.float8_e5m2,
    Dtype.F8_E4M3: tf.dtypes.experimental.float8_e4m3fn,
    Dtype.F8_E4M3FNUZ: tf.dtypes.experimental.float8_e4m3fnuz,
    Dtype.F8_E5M2FNUZ: tf.dtypes.experimental.float8_e5m2fnuz,
    Dtype.I16: tf.int16,
    Dtype.U16: tf.uint16,
    Dtype.F16: tf.float16,
    Dtype.BF16: tf.bfloat16,
    Dtype.I32: tf.int32,
    Dtype.U32: tf.uint32,
    Dtype.F32: tf.float32,
    Dtype.C64: tf.complex64,
    Dtype.F64: tf.float64,
    Dtype.I64: tf.int64,
    Dtype.U64: tf.uint64,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# Tensors of these types export their memory in formats that Python knows: half the time.
_EXPORTED = frozenset(
    {tf.bool, tf.uint8, tf.int8, tf.int16, tf.uint16, tf.int32, tf.uint32, tf.float32}
    | {tf.float16, tf.float64, tf.int64, tf.uint64}
)
# TensorFlow has one object for each type, and compares them in Python.
_EXPORTED_OBJECTS = frozenset(map(id, _EXPORTED))
_CODES_OF_OBJECTS = {id(dtype): code for dtype, code in _CODES.items()}
_COPIED = 4096  # bytes of a tensor below which a copy of it is made sooner than it is lent
_REMEDIES = {
    tf.string: "Encode the texts as numbers with tf.io.decode_raw(), or keep them in the metadata",
    tf.complex128: "Save tf.math.real() and tf.math.imag() of it as two tensors",
    tf.qint8: "Save tf.bitcast(tensor, tf.int8) and the range as tensors",
    tf.quint8: "Save tf.bitcast(tensor, tf.uint8) and the range as tensors",
    tf.qint16: "Save tf.bitcast(tensor, tf.int16) and the range as tensors",
    tf.quint16: "Save tf.bitcast(tensor, tf.uint16) and the range as tensors",
    tf.qint32: "Save tf.bitcast(tensor, tf.int32) and the range as tensors",
    tf.resource: "Save what it refers to",
    tf.variant: "Save what it holds tensor by tensor",
}

#: Bytes of which the address of a tensor must be a multiple. TensorFlow is compiled with
#: ``EIGEN_MAX_ALIGN_BYTES=64``: its kernels check the address and end the process where it does
#: not fit. A tensor made from an array at another address is a copy, made by TensorFlow; one
#: that is imported through DLPack is not, and fails in the first kernel.
ALIGNMENT = 64

# Below this, TensorFlow's copy takes memory that the process has already, which is faster.
_LARGE = 256 * 1024
_SMALL = 4096  # mean size in bytes below which tensors are copied where they must be aligned
_NUMPY = NumpyFramework()
_NOTHING = np.zeros(0)
with tf.init_scope():  # inside a function that is traced, it would be the type of its symbols
    _Eager: Any = type(tf.constant(0))
_KINDS = (tf.Tensor, tf.Variable, tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices)
_OTHER_KINDS = {
    tf.RaggedTensor: "save its flat_values and its nested_row_splits as tensors of their own",
    tf.SparseTensor: "save its indices, values and dense_shape as tensors of their own, or "
    "convert it with tf.sparse.to_dense()",
    tf.IndexedSlices: "save its indices and values as tensors of their own, or convert it with "
    "tf.convert_to_tensor()",
}


class TensorflowFramework(HostFramework):
    """TensorFlow tensors; variables, and those of Keras, are saved as the tensors they hold.

    Tensors on the CPU alias the buffer that they come from where they begin at a multiple of 64
    bytes; others are copies, as on any other device. F6 and F8_E8M0 do not exist in TensorFlow.

    Example:
        >>> TensorflowFramework().describe(tf.zeros((2, 3), tf.bfloat16))
        TensorSpec(dtype=<Dtype.BF16: 'BF16'>, shape=(2, 3))
    """

    name: ClassVar[str] = "tensorflow"
    native_package: ClassVar[str] = "tensorflow"
    dtypes: Mapping[Dtype, tf.DType] = _DTYPES
    alignment: ClassVar[int] = ALIGNMENT
    aliases_on_load: ClassVar[bool] = True
    aliases_on_save: ClassVar[bool] = True

    def devices(self) -> tuple[str, ...]:
        """The host, and the other devices that TensorFlow has."""
        others = (device.name for device in tf.config.list_logical_devices())
        return ("cpu", *(name for name in others if "CPU" not in name))

    def is_tensor(self, obj: object) -> bool:
        """Whether an object is a tensor or a variable, of Keras too; sparse and ragged ones too."""
        return isinstance(obj, _KINDS) or _is_keras_variable(obj)

    def describe(self, tensor: Any) -> TensorSpec:
        """Dtype and shape of a tensor in the file."""
        if type(tensor) is not _Eager:
            tensor = _saveable(tensor)
        code = _CODES_OF_OBJECTS.get(id(tensor.dtype))
        if code is None:
            raise UnsupportedDtypeError(
                tensor.dtype.name,
                "the safetensors format",
                remedy=_REMEDIES.get(tensor.dtype, "Convert the tensor with tf.cast()"),
            )
        if "CUSTOM" in tensor.device:
            _check_whole(tensor)
        return TensorSpec(code, tuple(tensor.shape.as_list()))

    def find_device(self, device: Any) -> str:
        """The name of a device, in a program that executes eagerly."""
        if not tf.executing_eagerly():
            _check_eager()
        return as_device(device)

    def to_buffer(self, tensor: Any) -> memoryview:
        """The bytes of a tensor; aliases one on the CPU."""
        if type(tensor) is _Eager and tensor.dtype in _EXPORTED and "CPU" in tensor.device:
            return memoryview(tensor)
        return super().to_buffer(tensor)

    def to_buffers(self, tensors: Iterable[Any]) -> Iterator[Buffer]:
        """The bytes of tensors; aliases those on the CPU but the small ones."""
        for tensor in tensors:
            if (
                type(tensor) is _Eager
                and id(tensor.dtype) in _EXPORTED_OBJECTS
                and "CPU" in tensor.device
            ):
                view = memoryview(tensor)
                yield bytes(view) if view.nbytes <= _COPIED else view
                del view
            else:
                yield self.to_buffer(tensor)

    def to_array(self, tensor: Any) -> Array:
        """A tensor as an array, which aliases it on the CPU."""
        if type(tensor) is not _Eager:
            tensor = _value(_saveable(tensor))
        try:
            if not tensor.ndim:
                # Without dimensions, some types give a bare number, which is no array.
                return np.asarray(tf.reshape(tensor, (1,))).reshape(())
            return np.asarray(tensor)
        except tf.errors.OpError as error:
            raise InvalidInputError(
                f"a tensor on {tensor.device} cannot be copied to the host: {error.message}"
            ) from error

    def from_array(self, array: Array, device: str) -> tf.Tensor:
        """An array as a tensor, which aliases it on the CPU if it is contiguous and aligned."""
        # What tf.constant() does last, without its copy of the array.
        return _Eager(array, device=device, dtype=None)

    def prefers_map(self, device: Any) -> bool:
        """Whether a device is the host."""
        try:
            return self.find_device(device) == HOST
        except InvalidInputError:  # loading will say it
            return True

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, tf.Tensor]:
        """Tensors from a source; some are copied to a device while the next ones are read.

        A device that cannot be used is refused before anything is read.
        """
        target = self.find_device(device)
        self.check_dtypes(infos)
        nbytes = sum(info.nbytes for info in infos.values())
        # Aligning thousands of small tensors, each read for itself, takes longer than a copy.
        alignment = ALIGNMENT if nbytes >= _SMALL * len(infos) else 1
        if target == HOST:
            buffer, placed = source.fetch(infos, alignment)
            with collector.paused():
                return self.from_buffers(buffer, placed, target)
        loaded: dict[str, tf.Tensor] = {}
        with collector.paused():
            for buffer, placed in read_windows(source, infos, alignment):
                loaded.update(self.from_buffers(buffer, placed, target))
        return loaded

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, tf.Tensor]:
        """Tensors over a buffer, or copies where TensorFlow cannot use the memory as it lies."""
        target = self.find_device(device)
        tensors: dict[str, Any] = _NUMPY.from_buffers(buffer, infos, None)
        if target == HOST:
            align(tensors, buffer, infos, ALIGNMENT, at_least=_LARGE)
        for name, array in tensors.items():
            tensors[name] = _Eager(array, device=target, dtype=None)
        _let_go()
        return tensors

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> tf.Tensor:
        """A tensor of the part that an index selects."""
        tensor = super().index(buffer, info, index, device)
        _let_go()
        return tensor

    def cast(self, tensor: Any, dtype: Dtype) -> tf.Tensor:
        """A tensor of another floating-point type, as `tf.cast` rounds it."""
        wanted = _DTYPES.get(dtype)
        if wanted is None or not (wanted.is_floating and tensor.dtype.is_floating):
            raise InvalidInputError(
                f"TensorFlow does not convert {tensor.dtype.name} to {dtype}; only floating-point "
                "types that it has"
            )
        return _computed(tf.cast, tensor, wanted)

    def check_fillable(self, tensors: Mapping[str, Any]) -> None:
        """Refuse all but variables: a tensor of TensorFlow never changes."""
        for name, tensor in tensors.items():
            if not isinstance(tensor, tf.Variable) and not _is_keras_variable(tensor):
                raise InvalidInputError(
                    f"tensor {name!r} is a tf.Tensor, which cannot change: give a tf.Variable to "
                    "fill, or make a new tensor with load_file()"
                )

    def assign(self, tensor: Any, value: tf.Tensor) -> None:
        """Let a variable hold another tensor, which is copied to its device."""
        try:
            tensor.assign(value)
        except (tf.errors.OpError, ValueError) as error:
            raise InvalidInputError(f"a variable cannot be filled: {error}") from error

    def permute(self, tensor: Any, axes: tuple[int, ...]) -> tf.Tensor:
        """A tensor with its dimensions in another order; a copy."""
        if sorted(axes) != list(range(len(tensor.shape))):
            raise InvalidInputError(f"{axes} is no order of {len(tensor.shape)} dimensions")
        return _computed(tf.transpose, tensor, axes)


def _computed(function: Callable[..., tf.Tensor], tensor: Any, *arguments: Any) -> tf.Tensor:
    """What a function of TensorFlow gives. It has no kernel for some of the types."""
    try:
        return function(tensor, *arguments)
    except tf.errors.OpError as error:
        raise InvalidInputError(
            f"TensorFlow cannot do this with {tensor.dtype}: {error}"
        ) from error


def _let_go() -> None:
    """Make TensorFlow release the arrays that it has copied.

    It keeps them on a list until a tensor is freed, and with them the map of a file.
    """
    _Eager(_NOTHING, device=HOST, dtype=None)


def _is_keras_variable(obj: object) -> bool:
    """Whether an object is a variable of Keras 3 that holds one of TensorFlow."""
    # Whoever has one has imported Keras.
    kind = getattr(sys.modules.get("keras"), "Variable", None)
    return kind is not None and isinstance(obj, kind) and isinstance(obj.value, _KINDS)


def _saveable(tensor: Any) -> Any:
    """The tensor or variable that an object stands for, which has a value and a shape."""
    if not isinstance(tensor, _KINDS):
        tensor = tensor.value
    for kind, remedy in _OTHER_KINDS.items():
        if isinstance(tensor, kind):
            raise InvalidInputError(f"a tf.{kind.__name__} cannot be saved: {remedy}")
    if type(tensor) is _Eager:
        return tensor
    if tf.is_symbolic_tensor(tensor) or not tf.executing_eagerly():
        raise InvalidInputError(
            "a tensor of a graph has no value to save: save outside of the tf.function, or in a "
            "tf.py_function that it calls"
        )
    # A variable may hold values of other shapes than the one that it was made with.
    return tensor if tensor.shape.is_fully_defined() else _value(tensor)


def _value(tensor: Any) -> tf.Tensor:
    """The tensor that a variable holds, without a copy."""
    if not isinstance(tensor, tf.Variable):
        return tensor
    try:
        return tensor.read_value()
    except tf.errors.OpError as error:
        raise InvalidInputError(f"a variable cannot be read: {error.message}") from error


def _check_whole(tensor: Any) -> None:
    """Refuse a tensor of which every device has another part."""
    layout = tf.experimental.dtensor.fetch_layout(tensor)
    if not layout.is_fully_replicated():
        raise InvalidInputError(
            "a DTensor in several parts cannot be saved: bring it together with "
            "tf.experimental.dtensor.relayout() to a replicated layout"
        )


def _check_eager() -> None:
    """Refuse a program that has no tensors with values at all."""
    with tf.init_scope():
        if not tf.executing_eagerly():
            raise InvalidInputError(
                "eager execution is disabled, so there are no tensors to load: load NumPy arrays"
            )
