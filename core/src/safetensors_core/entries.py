"""Tensors that are about to be written: what they are, and where their bytes come from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, islice, pairwise
from operator import attrgetter, index
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safetensors_core import collector
from safetensors_core.description import DescribedTensors, describe_tensors
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError, PluginError
from safetensors_core.framework import Framework
from safetensors_core.header import TensorInfo
from safetensors_core.layout import check_name
from safetensors_core.sources.file import MAX_BUFFERS
from safetensors_core.tensor_spec import PreparedTensors, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Contents",
    "StreamedTensors",
    "WholeTensors",
    "collect_entries",
    "describe_entries",
]

_dimensions = attrgetter("ndim")

_BATCH = 4 * 1024 * 1024  # bytes of small tensors that one system call writes


class Contents(Protocol):
    """Tensors to write, whose bytes are produced when they are asked for.

    Example:
        >>> list(describe_entries({}).batches({}))
        []
    """

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Dtype and shape of every tensor, by name.

        Example:
            >>> dict(describe_entries({}).specs)
            {}
        """

    def batches(self, infos: Mapping[str, TensorInfo]) -> Iterator[list[memoryview]]:
        """The bytes of tensors, small ones gathered so that few calls write them.

        Args:
            infos: Which tensors, in the order of their offsets, which begin at 0.

        Yields:
            Buffers of bytes, not empty, as many as one system call takes. The list is to be
            emptied before the next one is asked for: then no more than one is in memory.

        Raises:
            InvalidInputError: A tensor has more or fewer bytes than its description says.

        Example:
            >>> list(describe_entries({}).batches({}))
            []
        """


class WholeTensors(NamedTuple):
    """Tensors of frameworks, of which each gives its bytes as one buffer.

    Attributes:
        described: The tensors, and what is known of them.
        prepared: What each framework gives the bytes of its tensors with.

    Example:
        >>> describe_entries({"w": np.zeros(3)}).specs["w"].nbytes
        24
    """

    described: DescribedTensors
    prepared: Mapping[Framework, PreparedTensors]

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Dtype and shape of every tensor, by name.

        Example:
            >>> list(describe_entries({"w": np.zeros(3)}).specs)
            ['w']
        """
        return self.described.specs

    def batches(self, infos: Mapping[str, TensorInfo]) -> Iterator[list[memoryview]]:
        """The bytes of tensors, in the order of the file.

        Example:
            >>> infos = {"w": TensorInfo(Dtype.U8, (2,), (0, 2))}
            >>> tensors = describe_entries({"w": np.array([97, 98], np.uint8)})
            >>> [bytes(view) for batch in tensors.batches(infos) for view in batch]
            [b'ab']
        """
        offsets = [info.data_offsets for info in infos.values()]
        names = [name for name, (begin, end) in zip(infos, offsets, strict=True) if begin < end]
        ends = [0, *[end for begin, end in offsets if begin < end]]
        buffers = self._buffers(names)
        first = 0
        while first < len(names):
            fitting = bisect_right(ends, ends[first] + _BATCH, first) - 1
            after = max(first + 1, min(fitting, first + MAX_BUFFERS))
            # Nothing in a batch can be garbage.
            with collector.paused():
                batch = _views(islice(buffers, after - first))
                sizes = [end - begin for begin, end in pairwise(ends[first : after + 1])]
                given = [view.nbytes for view in batch]
                if given != sizes:
                    wrong = next(i for i, size in enumerate(sizes) if given[i : i + 1] != [size])
                    name = names[first + wrong]
                    raise _wrong_size(name, infos[name], sum(given[wrong : wrong + 1]))
                if set(map(_dimensions, batch)) != {1} or list(map(len, batch)) != sizes:
                    batch = [view.cast("B") for view in batch]
            yield batch
            del batch
            first = after
        if next(buffers, None) is not None:
            frameworks = ", ".join(sorted(framework.name for framework in self.prepared))
            raise PluginError(
                f"the plugin of {frameworks} is wrong: it gives more buffers than it was asked for"
            )

    def _buffers(self, names: list[str]) -> Iterator[Buffer]:
        if len(self.prepared) == 1:
            [prepared] = self.prepared.values()
            return prepared.buffers(names)
        return self._mixed_buffers(names)

    def _mixed_buffers(self, names: list[str]) -> Iterator[Buffer]:
        for framework, neighbours in groupby(names, self.described.framework):
            yield from self.prepared[framework].buffers(neighbours)


def _views(buffers: Iterable[Buffer]) -> list[memoryview]:
    found: list[Any] = list(buffers)
    # A view of each view would take as long again.
    return found if set(map(type, found)) == {memoryview} else [memoryview(one) for one in found]


class StreamedTensors(NamedTuple):
    """Tensors whose bytes are produced one chunk at a time.

    Attributes:
        specs: Dtype and shape of every tensor, by name.
        chunks: For each, a function that yields its bytes in C order, little-endian.

    Example:
        >>> tensors = StreamedTensors({"w": TensorSpec(Dtype.U8, (3,))}, {"w": lambda: [b"abc"]})
        >>> tensors.specs["w"].nbytes
        3
    """

    specs: Mapping[str, TensorSpec]
    chunks: Mapping[str, Callable[[], Iterable[Buffer]]]

    def batches(self, infos: Mapping[str, TensorInfo]) -> Iterator[list[memoryview]]:
        """The chunks of tensors, in the order of the file.

        Example:
            >>> tensors = StreamedTensors({}, {"w": lambda: [b"ab", b"c"]})
            >>> infos = {"w": TensorInfo(Dtype.U8, (3,), (0, 3))}
            >>> [len(batch) for batch in tensors.batches(infos)]
            [2]
        """
        batch: list[memoryview] = []
        nbytes = 0
        for name, info in infos.items():
            for chunk in _checked_chunks(name, info, self.chunks[name]):
                batch.append(chunk)
                nbytes += len(chunk)
                del chunk  # only the batch keeps it, and lets go of it
                if nbytes >= _BATCH or len(batch) == MAX_BUFFERS:
                    yield batch
                    batch, nbytes = [], 0
        if batch:
            yield batch


def describe_entries(tensors: Mapping[str, Any]) -> WholeTensors:
    """Describe every tensor and let each framework refuse what cannot be saved together.

    Args:
        tensors: Tensors by name, of any installed framework, also mixed.

    Returns:
        The tensors with what is known of them.

    Raises:
        InvalidInputError: A tensor cannot be saved, or not together with another.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        PluginError: No installed plugin takes one of the tensors.

    Example:
        >>> describe_entries({"w": np.zeros(3)}).specs["w"].nbytes
        24
    """
    prepared: dict[Framework, PreparedTensors] = {}

    def prepare(framework: Framework, group: dict[str, Any]) -> list[TensorSpec]:
        prepared[framework] = framework.prepare(group)
        return prepared[framework].specs

    return WholeTensors(describe_tensors(tensors, prepare), prepared)


def collect_entries(
    entries: Iterable[tuple[str, TensorSpec, Callable[[], Iterable[Buffer]]]],
) -> StreamedTensors:
    """Take in the names and specs of tensors whose bytes are produced later.

    Args:
        entries: Name, dtype and shape, and a callable that yields the tensor's bytes.

    Returns:
        The tensors, in the same order.

    Raises:
        InvalidInputError: An entry is no such triple, or a name occurs twice.

    Example:
        >>> list(collect_entries([("w", TensorSpec(Dtype.U8, (3,)), lambda: [b"abc"])]).specs)
        ['w']
    """
    specs: dict[str, TensorSpec] = {}
    chunks: dict[str, Callable[[], Iterable[Buffer]]] = {}
    for entry in entries:
        name, spec, produce = _checked_entry(entry)
        if name in specs:
            raise InvalidInputError(f"tensor {name!r} occurs twice")
        specs[name], chunks[name] = spec, produce
    return StreamedTensors(specs, chunks)


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


def _checked_chunks(
    name: str, info: TensorInfo, chunks: Callable[[], Iterable[Buffer]]
) -> Iterator[memoryview]:
    """A tensor's bytes, which must be as many as its entry in the header says.

    They stay as they are while the next are produced, in the same buffer maybe.
    """
    expected = info.nbytes
    if expected == 0:
        return
    given = 0
    for chunk in chunks():
        try:
            view = memoryview(chunk)
        except TypeError:
            raise InvalidInputError(
                f"tensor {name!r}: expected its bytes, got {type(chunk).__name__}"
            ) from None
        if not view.c_contiguous:
            raise InvalidInputError(f"tensor {name!r}: its bytes must be contiguous")
        if view.nbytes == 0:
            continue
        given += view.nbytes
        if given > expected:
            break
        # A large chunk is written before the next one is asked for.
        if view.nbytes < _BATCH and not isinstance(chunk, bytes):
            view = memoryview(bytes(view))
        yield view.cast("B")
        del chunk, view
    if given != expected:
        raise _wrong_size(name, info, given)


def _wrong_size(name: str, info: TensorInfo, given: int) -> InvalidInputError:
    return InvalidInputError(
        f"tensor {name!r}: {info.dtype} of shape {list(info.shape)} has {info.nbytes:,} bytes, "
        f"but {'more' if given > info.nbytes else f'only {given:,}'} came"
    )
