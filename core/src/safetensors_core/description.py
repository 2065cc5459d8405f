"""Whose tensors are in a dict, and what they are in the terms of the format."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors_core import collector
from safetensors_core.errors import (
    FrameworkNotFoundError,
    InvalidInputError,
    PluginError,
    SharedMemoryError,
    UnsupportedDtypeError,
)
from safetensors_core.framework import Framework, TensorSpec
from safetensors_core.plugins import get_framework

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DescribedTensors", "describe_tensors"]


class DescribedTensors(NamedTuple):
    """Tensors, their frameworks, and what would be written of them.

    Attributes:
        tensors: The tensors by name.
        specs: Dtype and shape of each in the format, in the same order.
        frameworks: The framework that takes the tensors of a class, for every class.

    Example:
        >>> describe_tensors({"w": np.zeros(3, np.float16)}).specs["w"].nbytes
        6
    """

    tensors: dict[str, Any]
    specs: dict[str, TensorSpec]
    frameworks: dict[type, Framework]

    @property
    def groups(self) -> dict[Framework, dict[str, Any]]:
        """The tensors of each framework.

        Example:
            >>> [sorted(group) for group in describe_tensors({"w": np.zeros(3)}).groups.values()]
            [['w']]
        """
        return _grouped(self.tensors, self.frameworks)

    def framework(self, name: str) -> Framework:
        """The framework of a tensor.

        Args:
            name: Its name.

        Example:
            >>> describe_tensors({"w": np.zeros(3)}).framework("w").name
            'numpy'
        """
        return self.frameworks[type(self.tensors[name])]

    def buffer(self, name: str) -> Buffer:
        """The bytes of a tensor on the host, for whoever keeps them.

        Args:
            name: Name of a tensor that is not empty.

        Returns:
            A contiguous buffer, which keeps no other tensor alive.

        Example:
            >>> list(describe_tensors({"w": np.ones(2, np.int8)}).buffer("w"))
            [1, 1]
        """
        return self.framework(name).to_buffer(self.tensors[name])


Describe = Callable[[Framework, dict[str, Any]], list[TensorSpec]]


def _describe_all(framework: Framework, group: dict[str, Any]) -> list[TensorSpec]:
    return framework.describe_all(group.values())


def describe_tensors(
    tensors: Mapping[str, Any], describe: Describe = _describe_all
) -> DescribedTensors:
    """Recognise tensors and describe them. Moves no data.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed.
        describe: Asks a framework for all of its tensors. What it refuses, `Framework.describe`
            is asked for one by one, so that the error says which tensor it is.

    Returns:
        What is known of them, in the same order.

    Raises:
        InvalidInputError: It is no mapping, or a tensor cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.

    Example:
        >>> describe_tensors({"w": np.zeros((2, 3))}).specs["w"]
        TensorSpec(dtype=<Dtype.F64: 'F64'>, shape=(2, 3))
    """
    if not isinstance(tensors, Mapping):
        raise InvalidInputError(
            f"expected tensors by name in a mapping, got {type(tensors).__name__}"
        )
    with collector.paused():
        # Some mappings make a tensor whenever they are asked for it.
        tensors = dict(tensors.items())
        frameworks = _recognised(tensors)
        specs: dict[str, TensorSpec] = {}
        groups = _grouped(tensors, frameworks)
        for framework, group in groups.items():
            specs.update(zip(group, _described(framework, group, describe), strict=True))
        if len(groups) > 1:
            specs = {name: specs[name] for name in tensors}
    return DescribedTensors(tensors, specs, frameworks)


def _recognised(tensors: Mapping[str, Any]) -> dict[type, Framework]:
    """The framework of each class that tensors are of."""
    frameworks: dict[type, Framework] = {}
    for kind in dict.fromkeys(map(type, tensors.values())):
        name, tensor = next(item for item in tensors.items() if type(item[1]) is kind)
        with _naming(name):
            frameworks[kind] = get_framework(_not_a_name(tensor))
    return frameworks


def _grouped(
    tensors: dict[str, Any], frameworks: Mapping[type, Framework]
) -> dict[Framework, dict[str, Any]]:
    if len(set(frameworks.values())) == 1:
        [framework, *_] = frameworks.values()
        return {framework: tensors}
    groups: dict[Framework, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(frameworks[type(tensor)], {})[name] = tensor
    return groups


def _described(framework: Framework, group: dict[str, Any], describe: Describe) -> list[TensorSpec]:
    try:
        specs = describe(framework, group)
        if len(specs) != len(group):
            raise PluginError(
                f"the plugin of {framework.name!r} is wrong: it describes {len(specs)} tensors "
                f"where it was given {len(group)}"
            )
        return specs
    except SharedMemoryError:  # says which tensors they are
        raise
    except (InvalidInputError, UnsupportedDtypeError) as error:
        refused = error
    for name, tensor in group.items():
        with _naming(name):
            framework.describe(tensor)
    raise refused


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Let errors inside a block say which tensor they are about."""
    try:
        yield
    except UnsupportedDtypeError as error:
        error.tensor = name
        raise
    except (FrameworkNotFoundError, InvalidInputError) as error:
        error.args = (f"tensor {name!r}: {error}",)
        raise


def _not_a_name(tensor: object) -> object:
    if isinstance(tensor, (str, Framework)):
        raise InvalidInputError(f"expected a tensor, got {type(tensor).__name__}")
    return tensor
