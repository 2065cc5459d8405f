"""Tensor subclasses as libraries of quantised weights write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map_only


class Wrapper(torch.Tensor):
    """A tensor of other tensors, which it computes with as the plain tensor that they stand for."""

    @staticmethod
    def __new__(cls, shape: Sequence[int], *_: Any, **__: Any) -> Any:
        make: Any = torch.Tensor._make_wrapper_subclass
        return make(cls, tuple(shape), dtype=torch.float32)

    def plain(self) -> torch.Tensor:
        """The tensor that this one stands for."""
        raise NotImplementedError

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({self.plain()})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.detach.default:
            attributes, context = args[0].__tensor_flatten__()
            inner = {name: getattr(args[0], name) for name in attributes}
            return cls.__tensor_unflatten__(inner, context, args[0].shape, args[0].stride())
        args, kwargs = tree_map_only(Wrapper, lambda tensor: tensor.plain(), (args, kwargs or {}))
        return function(*args, **kwargs)

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        raise NotImplementedError

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, context: Any, shape: Any, stride: Any) -> Any:
        raise NotImplementedError


class Scaled(Wrapper):
    """Small integers times one scale, with a context such as quantising libraries have."""

    def __init__(
        self, _shape: Any, numbers: torch.Tensor, scale: torch.Tensor, context: Any = None
    ) -> None:
        self.numbers, self.scale, self.context = numbers, scale, context

    def plain(self) -> torch.Tensor:
        return self.numbers.float() * self.scale

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["numbers", "scale"], self.context

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, context: Any, shape: Any, _stride: Any) -> Any:
        return cls(shape, inner["numbers"], inner["scale"], context)


class Negated(Wrapper):
    """A tensor, maybe a wrapper itself, with the other sign."""

    def __init__(self, _shape: Any, original: torch.Tensor) -> None:
        self.original = original

    def plain(self) -> torch.Tensor:
        return self.original * -1

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["original"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, _context: Any, shape: Any, _stride: Any) -> Any:
        return cls(shape, inner["original"])


class Opaque(torch.Tensor):
    """A wrapper that cannot be taken apart."""

    @staticmethod
    def __new__(cls) -> Any:
        make: Any = torch.Tensor._make_wrapper_subclass
        return make(cls, (2, 3), dtype=torch.float32)

    def __repr__(self) -> str:  # type: ignore[override]
        return "Opaque()"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, _types: Any, _args: Any = (), _kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(str(function))


def scaled(context: Any = None, factor: float = 0.5) -> Scaled:
    """A wrapper of shape (2, 3)."""
    numbers = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    return Scaled((2, 3), numbers, torch.tensor(factor), context)
