"""`TensorSlice`: a tensor of which only what is indexed is loaded."""

from __future__ import annotations

from typing import Any

from safetensors_core.errors import (
    ClosedFileError,
    InvalidInputError,
    SliceError,
    UnsupportedDtypeError,
)
from safetensors_core.framework import Framework
from safetensors_core.header import TensorInfo
from safetensors_core.sources import ByteSource

__all__ = ["TensorSlice"]


class TensorSlice:
    """A tensor in a file, loaded where it is indexed.

    Made by `safe_open.get_slice`. Indices mean what they mean in NumPy: integers, negative ones
    too, slices with any step, ``...``, None, and lists or arrays of integers or booleans.

    Example:
        >>> from safetensors_core import safe_open
        >>> weight = safe_open(model_path).get_slice("weight")
        >>> weight.get_shape(), weight.get_dtype()
        ([2, 3], 'F32')
        >>> weight[1, [2, 0]]
        array([5., 3.], dtype=float32)
    """

    def __init__(
        self, name: str, info: TensorInfo, source: ByteSource, framework: Framework, device: Any
    ) -> None:
        self._name = name
        self._info = info
        self._source = source
        self._framework = framework
        self._device = device

    def __repr__(self) -> str:
        return f"<TensorSlice {self._name!r}: {self._info.dtype} {list(self._info.shape)}>"

    def get_shape(self) -> list[int]:
        """Shape of the whole tensor, as the file has it.

        Example:
            >>> from safetensors_core import safe_open
            >>> safe_open(model_path).get_slice("bias").get_shape()
            [3]
        """
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """The format's code of the element type.

        Example:
            >>> from safetensors_core import safe_open
            >>> safe_open(model_path).get_slice("bias").get_dtype()
            'F32'
        """
        return str(self._info.dtype)

    def __getitem__(self, index: Any) -> Any:
        framework = self._framework
        try:
            fetched = self._source.fetch_slice(self._info, index, framework.alignment)
        except SliceError as error:
            raise SliceError(self._describe(error)) from None
        try:
            return framework.index(*fetched, self._device)
        except UnsupportedDtypeError as error:
            error.tensor, error.location = self._name, self._source.location
            raise
        except InvalidInputError as error:
            error.args = (self._describe(error),)
            raise
        except ClosedFileError:
            raise
        # What frameworks raise for an index that does not suit them.
        except (IndexError, OverflowError, TypeError, ValueError) as error:
            raise SliceError(self._describe(error)) from error

    def _describe(self, error: Exception) -> str:
        shape = list(self._info.shape)
        return f"{self._source.location}: tensor {self._name!r} of shape {shape}: {error}"
