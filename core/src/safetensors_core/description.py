"""Whose tensors are in a dict, and what they are in the terms of the format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors_core import collector
from safetensors_core.errors import (
    FrameworkNotFoundError,
    InvalidInputError,
    UnsupportedDtypeError,
)
from safetensors_core.framework import Framework, TensorSpec
from safetensors_core.plugins import get_framework

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DescribedTensor", "describe_tensors"]


class DescribedTensor(NamedTuple):
    """A tensor, its framework, and what would be written of it.

    Attributes:
        framework: The framework that takes the tensor.
        tensor: The tensor itself.
        spec: Its dtype and shape in the format.

    Example:
        >>> describe_tensors({"w": np.zeros(3, np.float16)})["w"].spec.nbytes
        6
    """

    framework: Framework
    tensor: Any
    spec: TensorSpec

    def to_buffer(self) -> Buffer:
        """The tensor's bytes on the host.

        Returns:
            A contiguous buffer that aliases the tensor where its framework can.

        Example:
            >>> list(describe_tensors({"w": np.ones(2, np.int8)})["w"].to_buffer())
            [1, 1]
        """
        return self.framework.to_buffer(self.tensor)


def describe_tensors(tensors: Mapping[str, Any]) -> dict[str, DescribedTensor]:
    """Recognise tensors one by one. Moves no data.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed.

    Returns:
        The same names with what is known of each.

    Raises:
        InvalidInputError: It is no mapping, or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.

    Example:
        >>> describe_tensors({"w": np.zeros((2, 3))})["w"].spec
        TensorSpec(dtype=<Dtype.F64: 'F64'>, shape=(2, 3))
    """
    if not isinstance(tensors, Mapping):
        raise InvalidInputError(
            f"expected tensors by name in a mapping, got {type(tensors).__name__}"
        )
    frameworks: dict[type, Framework] = {}
    described: dict[str, DescribedTensor] = {}
    with collector.paused():
        for name, tensor in tensors.items():
            kind = type(tensor)
            framework = frameworks.get(kind)
            try:
                if framework is None:
                    framework = frameworks[kind] = get_framework(_not_a_name(tensor))
                described[name] = DescribedTensor(framework, tensor, framework.describe(tensor))
            except UnsupportedDtypeError as error:
                error.tensor = name
                raise
            except (FrameworkNotFoundError, InvalidInputError) as error:
                error.args = (f"tensor {name!r}: {error}",)
                raise
    return described


def _not_a_name(tensor: object) -> object:
    if isinstance(tensor, (str, Framework)):
        raise InvalidInputError(f"expected a tensor, got {type(tensor).__name__}")
    return tensor
