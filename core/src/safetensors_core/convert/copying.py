"""The tensors of a plan as bytes: read, changed, written, and read again to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from safetensors_core.convert.finding import opened
from safetensors_core.convert.foreign import ForeignCheckpoint
from safetensors_core.convert.plan import PlannedTensor
from safetensors_core.errors import ConversionError, SafetensorError
from safetensors_core.framework import TensorSpec
from safetensors_core.plugins import get_framework
from safetensors_core.sources import FileSource

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = ["OpenFiles", "check_copy"]

_BLOCK = 4 * 1024 * 1024  # bytes


class OpenFiles:
    """The files of a source, each open while its tensors are asked for.

    Args:
        optimizer: Whether the state of an optimizer is wanted, too.

    Example:
        >>> with OpenFiles() as files:
        ...     files.only([])
    """

    def __init__(self, *, optimizer: bool = False) -> None:
        self._optimizer = optimizer
        self._open: dict[str, tuple[ForeignCheckpoint, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.only([])

    def only(self, paths: Iterable[str]) -> None:
        """Close all other files: some readers hold a whole one in memory.

        Example:
            >>> with OpenFiles() as files:
            ...     files.only(["a.bin"])
        """
        for path in self._open.keys() - set(paths):
            self._open.pop(path)[1].close()

    def entries(
        self, tensors: Iterable[PlannedTensor], on_chunk: Callable[[int], object]
    ) -> Iterator[tuple[str, TensorSpec, Callable[[], Iterator[Buffer]]]]:
        """Tensors as `save_stream` takes them.

        Args:
            tensors: What is planned.
            on_chunk: Called with the bytes of each chunk that was handed out.

        Yields:
            Name, dtype and shape, and a callable that yields the bytes.

        Example:
            >>> list(OpenFiles().entries([], print))
            []
        """
        for tensor in tensors:
            yield tensor.name, tensor.spec, partial(self._counted, tensor, on_chunk)

    def chunks(self, tensor: PlannedTensor) -> Iterator[Buffer]:
        """The bytes of a tensor of the result.

        Raises:
            ConversionError: The file has changed since it was planned, or is damaged.
        """
        checkpoint = self._checkpoint(tensor.path)
        stored = checkpoint.tensors.get(tensor.source)
        if stored is None or stored.spec != tensor.stored:
            raise ConversionError("the file changed while it was converted", tensor.path)
        with _naming(tensor):
            if tensor.is_copied and stored.chunks is not None:
                yield from stored.chunks()
                return
            value = stored.read()
            framework = get_framework(value)
            if tensor.axes is not None:
                value = framework.permute(value, tensor.axes)
            if tensor.spec.dtype is not tensor.stored.dtype:
                value = framework.cast(value, tensor.spec.dtype)
            found = framework.describe(value)
            if found != tensor.spec:
                raise ConversionError(
                    f"tensor {tensor.source!r} was read as {_shown(found)}, and "
                    f"{_shown(tensor.spec)} was expected",
                    tensor.path,
                )
            yield framework.to_buffer(value)

    def _counted(
        self, tensor: PlannedTensor, on_chunk: Callable[[int], object]
    ) -> Iterator[Buffer]:
        for chunk in self.chunks(tensor):
            nbytes = memoryview(chunk).nbytes
            yield chunk
            del chunk  # before the next one is made
            on_chunk(nbytes)

    def _checkpoint(self, path: str) -> ForeignCheckpoint:
        if path not in self._open:
            with ExitStack() as stack:
                checkpoint = stack.enter_context(opened(path, optimizer=self._optimizer))
                self._open[path] = checkpoint, stack.pop_all()
        return self._open[path][0]


@contextlib.contextmanager
def _naming(tensor: PlannedTensor) -> Iterator[None]:
    """Let what a reader or a framework did not expect be an error of ours."""
    try:
        yield
    except (SafetensorError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ConversionError(
            f"tensor {tensor.source!r} cannot be converted: {type(error).__name__}: {error}",
            tensor.path,
        ) from error


def check_copy(
    path: str,
    tensors: Iterable[PlannedTensor],
    files: OpenFiles,
    on_chunk: Callable[[int], object],
) -> None:
    """Compare a file that was written with what it was made of, bit by bit.

    Args:
        path: The file.
        tensors: What it shall hold.
        files: The files of the source, from which the tensors are made again.
        on_chunk: Called with the bytes of each chunk that was compared.

    Raises:
        ConversionError: They differ.
        HeaderError: It is not a valid safetensors file.
        OSError: It cannot be read.

    Example:
        >>> with OpenFiles() as files:
        ...     check_copy(str(model_path), [], files, print)
        Traceback (most recent call last):
        safetensors_core.errors.ConversionError: ...: what was written is not what was planned
    """
    with contextlib.closing(FileSource(path)) as source:
        header = source.read_header()
        planned = {tensor.name: tensor for tensor in tensors}
        written = {name: (info.dtype, info.shape) for name, info in header.tensors.items()}
        if written != {name: (t.spec.dtype, t.spec.shape) for name, t in planned.items()}:
            raise ConversionError("what was written is not what was planned", path)
        for name, info in header.tensors.items():
            offset = header.data_start + info.data_offsets[0]
            for chunk in files.chunks(planned[name]) if info.nbytes else ():
                view = memoryview(chunk).cast("B")
                if not _equal(source, offset, view):
                    raise ConversionError(
                        f"tensor {name!r} is read back with other bytes than it was written with: "
                        "the disk is at fault, or what reads the source",
                        path,
                    )
                offset += len(view)
                on_chunk(len(view))
                del chunk, view  # before the next one is made
            if offset != header.data_start + info.data_offsets[1]:
                raise ConversionError(f"tensor {name!r} has another size now", path)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _equal(source: FileSource, offset: int, view: memoryview) -> bool:
    block = memoryview(bytearray(min(len(view), _BLOCK)))
    for begin in range(0, len(view), _BLOCK):
        wanted = view[begin : begin + _BLOCK]
        found = block[: len(wanted)]
        source.read_into(offset + begin, found)
        if found != wanted:
            return False
    return True
