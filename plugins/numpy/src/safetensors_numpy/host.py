"""`HostFramework`: what frameworks that exchange NumPy arrays with the host have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from safetensors_core import ByteSource, Framework, TensorInfo
from safetensors_numpy.framework import NumpyFramework

__all__ = ["HostFramework"]

Array = npt.NDArray[Any]

_NUMPY = NumpyFramework()


class HostFramework(Framework):
    """A framework whose tensors are made from NumPy arrays, and give them.

    A plugin says how one array becomes a tensor and one tensor an array, and how its devices
    are spelled. Buffers, slices and packed types are NumPy's then. `describe` is still its own,
    because it must not move data.

    Example:
        >>> from safetensors_core import Dtype, TensorInfo, TensorSpec
        >>> class Lists(HostFramework):
        ...     '''A framework whose tensors are lists of numbers.'''
        ...
        ...     name, native_package = "lists", "builtins"
        ...     dtypes = {Dtype.F32: float}
        ...
        ...     def is_tensor(self, obj):
        ...         return isinstance(obj, list)
        ...
        ...     def describe(self, tensor):
        ...         return TensorSpec(Dtype.F32, (len(tensor),))
        ...
        ...     def find_device(self, device):
        ...         return None
        ...
        ...     def to_array(self, tensor):
        ...         return np.array(tensor, np.float32)
        ...
        ...     def from_array(self, array, device):
        ...         return array.tolist()
        >>> lists = Lists()
        >>> info = TensorInfo(Dtype.F32, (2,), (0, 8))
        >>> lists.from_buffers(lists.to_buffer([1, 2]), {"w": info}, "cpu")
        {'w': [1.0, 2.0]}
    """

    @abstractmethod
    def find_device(self, device: Any) -> Any:
        """The framework's own object for a device.

        Args:
            device: What a user gave, ``"cpu"`` and None among it, or what this method returned.

        Returns:
            What `from_array` takes.

        Raises:
            InvalidInputError: There is no such device, or it cannot be used here.
        """

    @abstractmethod
    def to_array(self, tensor: Any) -> Array:
        """A tensor as an array on the host.

        Args:
            tensor: A tensor of this framework, on any device.

        Returns:
            An array with the bits of the tensor, of the type that NumPy or `ml_dtypes` has for
            its dtype. It aliases the tensor where it can and keeps it alive.
        """

    @abstractmethod
    def from_array(self, array: Array, device: Any) -> Any:
        """An array as a tensor.

        Args:
            array: Any array, of any strides and at any address, of the type that NumPy or
                `ml_dtypes` has for one of `dtypes`; nobody else will write to it.
            device: What `find_device` returned.

        Returns:
            A tensor with the bits of the array. It aliases the array where it can, and then
            keeps its memory alive.
        """

    def to_buffer(self, tensor: Any) -> memoryview:
        """The bytes of a tensor, by way of an array."""
        return _NUMPY.to_buffer(self.to_array(tensor))

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Any]:
        """Tensors from a source; a device that cannot be used is refused before it is read."""
        return super().load(source, infos, self.find_device(device))

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Any]:
        """Tensors by way of arrays over the buffer."""
        target = self.find_device(device)
        tensors: dict[str, Any] = _NUMPY.from_buffers(buffer, infos, None)
        from_array = self.from_array
        for name, array in tensors.items():
            tensors[name] = from_array(array, target)
        return tensors

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> Any:
        """A tensor of the part that an index selects of an array over the buffer."""
        target = self.find_device(device)
        return self.from_array(_NUMPY.index(buffer, info, index, None), target)
