"""Tensors that are about to be written: what they are, and where their bytes come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safetensors_core import collector
from safetensors_core.description import DescribedTensor, describe_tensors
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError
from safetensors_core.framework import Framework, TensorSpec
from safetensors_core.header import TensorInfo
from safetensors_core.layout import check_name, lay_out
from safetensors_core.sources.file import MAX_BUFFERS

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Entry", "Output", "PreparedFile", "collect_entries", "describe_entries", "prepare_file"]

_BATCH = 4 * 1024 * 1024  # bytes of small tensors that one system call writes


class Entry(NamedTuple):
    """One tensor to write: its description, and its bytes once they are asked for.

    Attributes:
        spec: Its dtype and shape.
        chunks: A function that yields its bytes in C order, little-endian.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> Entry(TensorSpec(Dtype.U8, (3,)), lambda: [b"abc"]).spec.nbytes
        3
    """

    spec: TensorSpec
    chunks: Callable[[], Iterable[Buffer]]


class Output(Protocol):
    """What the bytes of a file are handed to, from the first to the last.

    Example:
        >>> from safetensors_core.replacement import ReplacementFile
        >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as output:
        ...     output.write([memoryview(b"abc")])
    """

    def naming(self) -> AbstractContextManager[None]:
        """Let errors of the storage inside a block name the location that the user gave.

        Example:
            >>> from safetensors_core.replacement import ReplacementFile
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as file, file.naming():
            ...     file.reserve(10)
        """

    def reserve(self, nbytes: int) -> None:
        """Make ready for so many bytes in all.

        Example:
            >>> from safetensors_core.replacement import ReplacementFile
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as output:
            ...     output.reserve(3)
        """

    def write(self, views: list[memoryview]) -> None:
        """Append buffers of bytes, all of them.

        Example:
            >>> from safetensors_core.replacement import ReplacementFile
            >>> with ReplacementFile(tmp_path / "a.bin", fsync=True) as output:
            ...     output.write([memoryview(b"ab"), memoryview(b"c")])
        """


class PreparedFile(NamedTuple):
    """A file of which all is known but the bytes of the tensors.

    Attributes:
        beginning: Its first bytes, up to the data.
        infos: The tensors in the order of the file.
        entries: What is known of each.

    Example:
        >>> prepare_file({}, None, 8).nbytes
        16
    """

    beginning: bytes
    infos: dict[str, TensorInfo]
    entries: Mapping[str, Entry]

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes.

        Example:
            >>> prepare_file({}, {"by": "me"}, 8).nbytes
            40
        """
        last = next(reversed(self.infos.values())).data_offsets[1] if self.infos else 0
        return len(self.beginning) + last

    def write_to(self, output: Output) -> None:
        """Hand the file to an output.

        Args:
            output: Where it goes.

        Raises:
            InvalidInputError: A tensor yields more or fewer bytes than its spec says.
            OSError: The storage refuses.

        Example:
            >>> from safetensors_core.replacement import ReplacementFile
            >>> with ReplacementFile(tmp_path / "empty.safetensors", fsync=True) as output:
            ...     prepare_file({}, None, 8).write_to(output)
        """
        with output.naming():
            output.reserve(self.nbytes)
        batches = self._batches()
        while batch := _next_batch(batches):
            with output.naming():
                output.write(batch)
            batch.clear()  # before the next chunk is made

    def chunks(self) -> Iterator[memoryview]:
        """The bytes of the tensors, in the order of the file.

        Example:
            >>> list(prepare_file({}, None, 8).chunks())
            []
        """
        for name, info in self.infos.items():
            yield from _checked_chunks(name, info, self.entries[name])

    def _batches(self) -> Iterator[list[memoryview]]:
        """Chunks in the order of the file, small ones gathered so that few calls write them."""
        batch = [memoryview(self.beginning)]
        nbytes = len(self.beginning)
        for chunk in self.chunks():
            batch.append(chunk)
            nbytes += len(chunk)
            del chunk  # only the batch keeps it, and lets go of it
            if nbytes >= _BATCH or len(batch) == MAX_BUFFERS:
                yield batch
                batch, nbytes = [], 0
        if batch:
            yield batch


def prepare_file(
    entries: Mapping[str, Entry], metadata: Mapping[str, str] | None, alignment: int
) -> PreparedFile:
    """Find where everything goes in a file.

    Args:
        entries: Tensors by name.
        metadata: Strings by name; None for no metadata.
        alignment: The data begins at a multiple of this many bytes.

    Returns:
        The file, of which nothing is written yet.

    Raises:
        InvalidInputError: A name, a metadata value, a shape or `alignment` cannot be saved.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> entry = Entry(TensorSpec(Dtype.U8, (3,)), lambda: [b"abc"])
        >>> list(prepare_file({"a": entry}, None, 8).infos)
        ['a']
    """
    # A collection walks all that a program has: with TensorFlow loaded, a quarter of a second.
    with collector.paused():
        specs = {name: entry.spec for name, entry in entries.items()}
        beginning, infos = lay_out(specs, metadata, alignment)
    return PreparedFile(beginning, infos, entries)


def describe_entries(tensors: Mapping[str, Any]) -> dict[str, Entry]:
    """Describe every tensor and let each framework refuse what cannot be saved together.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed.

    Returns:
        The same names, in the same order.

    Raises:
        InvalidInputError: A tensor cannot be saved, or not together with another.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.

    Example:
        >>> describe_entries({"w": np.zeros(3)})["w"].spec.nbytes
        24
    """
    groups: dict[Framework, dict[str, Any]] = {}
    entries: dict[str, Entry] = {}
    with collector.paused():
        for name, known in describe_tensors(tensors).items():
            groups.setdefault(known.framework, {})[name] = known.tensor
            entries[name] = Entry(known.spec, partial(_whole, known))
    for framework, group in groups.items():
        framework.check_saveable(group)
    return entries


def collect_entries(
    entries: Iterable[tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]],
) -> dict[str, Entry]:
    """Take in the names and specs of tensors whose bytes are produced later.

    Args:
        entries: Name, dtype and shape, and a callable that yields the tensor's bytes.

    Returns:
        The tensors by name, in the same order.

    Raises:
        InvalidInputError: An entry is no such triple, or a name occurs twice.

    Example:
        >>> from safetensors_core import Dtype, TensorSpec
        >>> list(collect_entries([("w", TensorSpec(Dtype.U8, (3,)), lambda: [b"abc"])]))
        ['w']
    """
    collected: dict[str, Entry] = {}
    for entry in entries:
        name, spec, chunks = _checked_entry(entry)
        if name in collected:
            raise InvalidInputError(f"tensor {name!r} occurs twice")
        collected[name] = Entry(spec, partial(_settled, name, chunks))
    return collected


def _checked_entry(entry: Any) -> tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]:
    try:
        name, spec, chunks = entry
        check_name(name)
        if isinstance(spec.dtype, Dtype) and callable(chunks):
            return name, TensorSpec(spec.dtype, tuple(map(index, spec.shape))), chunks
    except InvalidInputError:
        raise
    except (AttributeError, TypeError, ValueError):
        pass
    raise InvalidInputError(
        f"expected a name, a TensorSpec and a callable that yields bytes, got {entry!r:.200}"
    )


def _settled(name: str, chunks: Callable[[], Iterable[Buffer]]) -> Iterator[Buffer]:
    """Chunks that stay as they are while the next is produced, in the same buffer maybe."""
    for chunk in chunks():
        try:
            view = memoryview(chunk)
        except TypeError:
            raise InvalidInputError(
                f"tensor {name!r}: expected its bytes, got {type(chunk).__name__}"
            ) from None
        if not view.c_contiguous:
            raise InvalidInputError(f"tensor {name!r}: its bytes must be contiguous")
        # A large chunk is written before the next one is asked for.
        yield view if isinstance(chunk, bytes) or view.nbytes >= _BATCH else bytes(view)
        del chunk, view


def _whole(tensor: DescribedTensor) -> tuple[Buffer]:
    return (tensor.to_buffer(),)


def _next_batch(batches: Iterator[list[memoryview]]) -> list[memoryview] | None:
    """The next batch, made while the collector does not look for garbage among its parts."""
    with collector.paused():
        return next(batches, None)


def _checked_chunks(name: str, info: TensorInfo, entry: Entry) -> Iterator[memoryview]:
    """A tensor's bytes, which must be as many as its entry in the header says."""
    expected = info.nbytes
    if expected == 0:
        return
    given = 0
    for chunk in entry.chunks():
        view = memoryview(chunk)
        if view.nbytes == 0:
            continue
        given += view.nbytes
        if given > expected:
            break
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        yield view
        del chunk, view
    if given != expected:
        raise InvalidInputError(
            f"tensor {name!r}: {info.dtype} of shape {list(info.shape)} has "
            f"{expected:,} bytes, but {'more' if given > expected else f'only {given:,}'} came"
        )
