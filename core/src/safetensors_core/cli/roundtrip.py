"""The main job of the package, step by step, with every result compared bit for bit.

Bits are compared as bytes, never as numbers: a NaN equals itself, and 0.0 is not -0.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors_core.cli.progress import progress_bar
from safetensors_core.cli.text import duration_text, inert
from safetensors_core.errors import SafetensorError
from safetensors_core.sizes import size_text

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

    from safetensors_core import ByteSource, Framework, TensorInfo
    from safetensors_core.progress import Progress

__all__ = ["MismatchError", "Original", "Step", "compare_files", "read_steps", "save_step"]

_CHUNK = 4 * 1024 * 1024  # bytes that are compared at a time
_ROWS = 10  # rows of the tensor that is sliced


class Step(NamedTuple):
    """One thing that was done.

    Attributes:
        step: What: ``"save"``, ``"open"``, ``"tensor"``, ``"slice"``, ``"load"``, ...
        detail: With what, and what came out.
        nbytes: Size of what it handled, in bytes.
        seconds: What it took.

    Example:
        >>> print(Step("save", "148 tensors", 497_759_232, 0.25))
        save        498 MB   250.00 ms  148 tensors
    """

    step: str
    detail: str
    nbytes: int
    seconds: float

    def __str__(self) -> str:
        size, duration = size_text(self.nbytes), duration_text(self.seconds)
        return f"{self.step:7}{size:>11}{duration:>12}  {inert(self.detail)}"


class MismatchError(SafetensorError):
    """What came back is not what went in.

    Args:
        what: What differs, and from what.

    Example:
        >>> raise MismatchError("tensor 'w' differs from the original")
        Traceback (most recent call last):
        safetensors_core.cli.roundtrip.MismatchError: tensor 'w' differs from the original. ...
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Check the disk and the memory, and report it if they are well")


class Original(NamedTuple):
    r"""The data that everything is compared with, independent of how tensors are read.

    Attributes:
        infos: Entries of the tensors, with offsets into the data.
        read: Gives the bytes of the data from one offset to another.

    Example:
        >>> data = bytes(8)
        >>> Original({}, lambda begin, end: data[begin:end]).read(2, 4)
        b'\x00\x00'
    """

    infos: Mapping[str, TensorInfo]
    read: Callable[[int, int], Buffer]

    @classmethod
    def of_source(cls, source: ByteSource) -> Original:
        """The data of a file whose header was read."""

        def read(begin: int, end: int) -> bytearray:
            data = bytearray(end - begin)
            source.read_into(source.header.data_start + begin, memoryview(data))
            return data

        return cls(source.header.tensors, read)

    @property
    def nbytes(self) -> int:
        """Size of all tensors together, in bytes."""
        return sum(info.nbytes for info in self.infos.values())


def save_step(
    tensors: Mapping[str, Any],
    path: str,
    metadata: Mapping[str, str] | None,
    nbytes: int,
    *,
    bars: bool = False,
) -> Step:
    """Save tensors to a file that will not outlive the demonstration.

    Args:
        tensors: Tensors by name.
        path: The file.
        metadata: Metadata of the file.
        nbytes: Size of the tensors in bytes.
        bars: Whether a terminal sees how far it is.

    Returns:
        What was done.

    Example:
        >>> save_step({}, tmp_path / "empty.safetensors", None, 0).detail
        '0 tensors, without fsync because the file is temporary'
    """
    from safetensors_core import save_file

    with progress_bar("saving", "B", wanted=bars) as progress, _Clock() as clock:
        save_file(tensors, path, metadata, fsync=False, progress=progress)
    detail = f"{len(tensors):,} tensors, without fsync because the file is temporary"
    return Step("save", detail, nbytes, clock.seconds)


def read_steps(
    path: str,
    framework: Framework,
    original: Original,
    max_header: int,
    into: dict[str, Any],
    *,
    bars: bool = False,
) -> Iterator[Step]:
    """Open a file lazily, read one tensor, one slice and everything; compare all of it.

    Args:
        path: The file.
        framework: The framework to read it with.
        original: What the file must hold.
        max_header: Longest header to accept, in bytes.
        into: Takes the tensors of the whole file.
        bars: Whether a terminal sees how far it is.

    Yields:
        Each step once it is done.

    Raises:
        MismatchError: Something differs from the original.

    Example:
        >>> from safetensors_core import get_framework, load_file, save_file
        >>> from safetensors_core.plugins import open_source
        >>> source = open_source(model_path)
        >>> original = Original(source.read_header().tensors, lambda begin, end: bytes(end - begin))
        >>> for step in read_steps(model_path, get_framework("np"), original, 1000, {}):
        ...     print(step.step)
        Traceback (most recent call last):
        safetensors_core.cli.roundtrip.MismatchError: tensor 'weight' as it was loaded differs ...
    """
    from safetensors_core import safe_open

    with _Clock() as clock:
        file = safe_open(path, framework, max_header=max_header)
    with file:
        if file.header.tensors.keys() != original.infos.keys():
            raise MismatchError("the names of the tensors differ from the original")
        yield Step("open", f"{len(file):,} names", file.header.data_start, clock.seconds)

        name = _largest(original.infos)
        if name is not None:
            info = original.infos[name]
            with _Clock() as clock:
                tensor = file.get_tensor(name)
            _check(framework, tensor, info, original, f"tensor {name!r} as it was loaded")
            yield Step("tensor", _entry_text(name, info.shape, info), info.nbytes, clock.seconds)

        name = _largest(
            {name: info for name, info in original.infos.items() if _has_whole_rows(info)}
        )
        if name is not None:
            first, last, rows = _rows(original.infos[name])
            with _Clock() as clock:
                part = file.get_slice(name)[first:last]
            shown = f"{name}[{first}:{last}]"
            _check(framework, part, rows, original, f"tensor {shown!r} as it was sliced")
            yield Step("slice", _entry_text(shown, rows.shape, rows), rows.nbytes, clock.seconds)

        with progress_bar("loading", "B", wanted=bars) as progress, _Clock() as clock:
            into.update(file.get_tensors(progress=progress))
        lazily = "every tensor, each lazily where the file is mapped"
        yield Step("load", lazily, original.nbytes, clock.seconds)

    with progress_bar("comparing", "B", wanted=bars) as progress, _Clock() as clock:
        done = 0
        for name, info in original.infos.items():
            _check(framework, into[name], info, original, f"tensor {name!r} as it was loaded")
            done += info.nbytes
            progress(done, original.nbytes)
    yield Step("compare", "every bit equal", original.nbytes, clock.seconds)


def compare_files(
    original: ByteSource, copy: ByteSource, *, bars: bool = False
) -> tuple[bool, Step]:
    """Compare a copy with the file that it was made from.

    Args:
        original: The file, its header read.
        copy: The copy, its header read.
        bars: Whether a terminal sees how far it is.

    Returns:
        Whether all bytes are equal, and what was done. Two files may hold the same tensors under
        headers that are written differently: then False.

    Raises:
        MismatchError: A tensor differs.

    Example:
        >>> from safetensors_core.plugins import open_source
        >>> source = open_source(model_path)
        >>> _ = source.read_header()
        >>> compare_files(source, source)[0]
        True
    """
    with progress_bar("comparing", "B", wanted=bars) as progress, _Clock() as clock:
        identical = _same_bytes(original, copy, progress)
        if not identical:
            _compare_tensors(Original.of_source(original), Original.of_source(copy))
    detail = "byte for byte the same file"
    if not identical:
        detail = "the same tensors, bit for bit; the header is written differently"
    return identical, Step("copy", detail, copy.size, clock.seconds)


class _Clock:
    """Measures a block."""

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


def _check(
    framework: Framework, tensor: Any, info: TensorInfo, original: Original, what: str
) -> None:
    """Compare a tensor's description and bytes with those of the original."""
    spec = framework.describe(tensor)
    if (spec.dtype, tuple(spec.shape)) != (info.dtype, info.shape):
        raise MismatchError(
            f"{what} is {spec.dtype} {list(spec.shape)} instead of {info.dtype} {list(info.shape)}"
        )
    if info.nbytes == 0:
        return
    with memoryview(framework.to_buffer(tensor)) as buffer, buffer.cast("B") as view:
        begin = info.data_offsets[0]
        for start in range(0, info.nbytes, _CHUNK):
            end = min(start + _CHUNK, info.nbytes)
            # A bytearray compares bytes at once; two memoryviews would do so one by one.
            if bytearray(view[start:end]) != original.read(begin + start, begin + end):
                raise MismatchError(f"{what} differs from the original")


def _compare_tensors(original: Original, copy: Original) -> None:
    if original.infos.keys() != copy.infos.keys():
        raise MismatchError("the names of the tensors in the copy differ from the original")
    for name, info in original.infos.items():
        other = copy.infos[name]
        same = (info.dtype, info.shape) == (other.dtype, other.shape)
        for start in range(0, info.nbytes if same else 0, _CHUNK):
            end = min(start + _CHUNK, info.nbytes)
            ours, theirs = (
                file.read(entry.data_offsets[0] + start, entry.data_offsets[0] + end)
                for file, entry in ((original, info), (copy, other))
            )
            same = same and ours == theirs
        if not same:
            raise MismatchError(f"tensor {name!r} in the copy differs from the original")


def _same_bytes(original: ByteSource, copy: ByteSource, progress: Progress) -> bool:
    if original.size != copy.size:
        return False
    for start in range(0, original.size, _CHUNK):
        chunks = []
        for source in (original, copy):
            chunk = bytearray(min(_CHUNK, original.size - start))
            source.read_into(start, memoryview(chunk))
            chunks.append(chunk)
        if chunks[0] != chunks[1]:
            return False
        progress(start + len(chunks[0]), original.size)
    return True


def _largest(infos: Mapping[str, TensorInfo]) -> str | None:
    return max(infos, key=lambda name: infos[name].nbytes, default=None)


def _has_whole_rows(info: TensorInfo) -> bool:
    """Whether a range of the first dimension is a range of bytes that is not empty."""
    return info.dtype.bits >= 8 and bool(info.shape) and info.nbytes > 0


def _rows(info: TensorInfo) -> tuple[int, int, TensorInfo]:
    """Some rows from the middle of a tensor: the first, the one after the last, their entry."""
    from safetensors_core import TensorInfo

    count = info.shape[0]
    first = count // 3
    last = min(first + _ROWS, count)
    row = info.nbytes // count
    begin = info.data_offsets[0]
    shape = (last - first, *info.shape[1:])
    return first, last, TensorInfo(info.dtype, shape, (begin + first * row, begin + last * row))


def _entry_text(name: str, shape: tuple[int, ...], info: TensorInfo) -> str:
    return f"{name}: {info.dtype} {list(shape)}"
