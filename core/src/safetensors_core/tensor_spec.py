"""What a framework says of tensors before any of their data moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from safetensors_core.dtypes import Dtype

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PreparedTensors", "TensorSpec"]


class TensorSpec(msgspec.Struct, frozen=True, gc=False):
    """What will be written of a tensor, known before any of its data moves.

    Attributes:
        dtype: Element type in the file.
        shape: Elements per dimension in the file, outermost first; empty for a scalar.

    Example:
        >>> TensorSpec(Dtype.BF16, (2, 3)).nbytes
        12
    """

    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes.

        Example:
            >>> TensorSpec(Dtype.F4, (4,)).nbytes
            2
        """
        elements = 1
        for dimension in self.shape:
            elements *= dimension
        return self.dtype.nbytes(elements)


class PreparedTensors(NamedTuple):
    """Tensors that can be saved, all of one framework.

    Attributes:
        specs: Dtype and shape of each, in the order in which they were given.
        buffers: Given names, in any order and never of empty tensors, gives their bytes in that
            order, one after the other, as `Framework.to_buffers` does.

    Example:
        >>> from safetensors_core import get_framework
        >>> prepared = get_framework("numpy").prepare({"w": np.ones(2, np.int8)})
        >>> prepared.specs[0].nbytes, [list(buffer) for buffer in prepared.buffers(["w"])]
        (2, [[1, 1]])
    """

    specs: list[TensorSpec]
    buffers: Callable[[Iterable[str]], Iterator[Buffer]]
