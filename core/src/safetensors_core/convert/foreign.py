"""What a plugin finds in a foreign checkpoint: `ForeignCheckpoint`, of `StoredTensor`s."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors_core.errors import SafetensorError
from safetensors_core.framework import TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ForeignCheckpoint", "StoredTensor"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file.

    Attributes:
        spec: Its dtype and shape.
        read: Reads it, as a tensor of the checkpoint's framework. May be called again.
        chunks: Yields its bytes in C order, little-endian, where they can be had without the
            framework; then memory stays at one chunk. None where `read` is the only way.
        key: Equal keys stand for the very same tensor under several names; None where no other
            name can stand for it.

    Example:
        >>> from safetensors_core import Dtype
        >>> StoredTensor(TensorSpec(Dtype.U8, (3,)), lambda: b"abc").spec.nbytes
        3
    """

    spec: TensorSpec
    read: Callable[[], Any]
    chunks: Callable[[], Iterable[Buffer]] | None = None
    key: Hashable | None = None


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What is in a foreign checkpoint, of which no tensor is read yet.

    The answer to the hook `safetensors_read_checkpoint`. Whoever asked closes it.

    Attributes:
        tensors: By name, in the order of the file: each a `StoredTensor`, or a tensor that is
            in memory anyway.
        framework: Name of the framework whose tensors they are read as.
        format: What the metadata of the converted file calls its framework: ``"pt"``,
            ``"flax"``, ``"tf"``, ``"np"``. Conversion between layouts goes by it.
        metadata: Strings by name that the file says about itself.
        left_out: What is in the file and not among `tensors`, by name, with the reason.
        refused: Tensors that cannot be converted, by name, with the error that says why. It is
            raised where such a tensor is kept.
        close: Lets go of open files.

    Example:
        >>> from safetensors_core import Dtype
        >>> bias = StoredTensor(TensorSpec(Dtype.U8, (3,)), lambda: b"abc")
        >>> found = ForeignCheckpoint({"bias": bias}, framework="acme", format="acme")
        >>> [name for name, _ in found]
        ['bias']
    """

    tensors: Mapping[str, StoredTensor | Any]
    framework: str
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, SafetensorError] = field(default_factory=dict)
    close: Callable[[], object] = lambda: None

    def __iter__(self) -> Iterator[tuple[str, StoredTensor | Any]]:
        """Names and tensors, one by one."""
        return iter(self.tensors.items())
