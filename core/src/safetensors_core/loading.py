"""Tensors of several files, or of many windows of one: read ahead, converted, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from safetensors_core import collector
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError, UnsupportedDtypeError
from safetensors_core.float_dtypes import FLOATS
from safetensors_core.framework import Framework
from safetensors_core.header import TensorInfo
from safetensors_core.progress import Progress, check_progress
from safetensors_core.read_ahead import Part, ReadAhead, windows
from safetensors_core.sources import ByteSource, MappedSource
from safetensors_core.sources.window_map import WindowMap

__all__ = ["WINDOW", "cast_tensors", "dtypes_of", "in_windows", "load_part", "load_parts"]

#: Bytes that are loaded at a time where what was read is not what is returned, or where somebody
#: wants to know how far it is.
WINDOW = 64 * 1024 * 1024


def load_parts(
    framework: Framework,
    parts: Sequence[Part],
    device: Any,
    *,
    dtype: Dtype | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Load the tensors of parts of files, with the next part read in the background.

    Args:
        framework: Makes the tensors.
        parts: Files and the tensors to load from each.
        device: Where the tensors shall live.
        dtype: What floating-point tensors become; None for what they are. What is converted is
            in memory twice for the time of a window only.
        progress: Called after each window.

    Returns:
        Tensors by name, in the order of the parts.

    Raises:
        UnsupportedDtypeError: The framework cannot represent a tensor exactly, or lacks `dtype`.
        InvalidInputError: It cannot convert one.
        OSError: A file cannot be read.

    Example:
        >>> from safetensors_core import get_framework, save
        >>> from safetensors_core.sources import MemorySource
        >>> source = MemorySource(save({"a": np.ones(2), "b": np.zeros(2, np.int8)}))
        >>> parts = [(source, source.read_header().tensors)]
        >>> loaded = load_parts(get_framework("numpy"), parts, "cpu", dtype=Dtype.F16)
        >>> {name: str(array.dtype) for name, array in loaded.items()}
        {'a': 'float16', 'b': 'int8'}
    """
    check_progress(progress)
    jobs = parts if dtype is None else _apart(framework, parts, device, dtype)
    framework.remark(dtypes_of(parts, dtype))
    if progress is not None:
        jobs = windows(jobs, WINDOW) or jobs
    if len(jobs) == 1:
        loaded = _load(framework, jobs[0], device, dtype)
        if progress is not None and (nbytes := _nbytes(jobs[0])):
            progress(nbytes, nbytes)
        return loaded
    done, total = 0, sum(map(_nbytes, jobs))
    loaded = {}
    with ReadAhead(jobs, ahead=1) as ready:
        for job in ready:
            loaded.update(_load(framework, job, device, dtype))
            if progress is not None and (nbytes := _nbytes(job)):
                done += nbytes
                progress(done, total)
    if dtype is None:
        return loaded
    return {name: loaded[name] for _, infos in parts for name in infos}


def dtypes_of(parts: Iterable[Part], dtype: Dtype | None = None) -> Iterator[tuple[str, Dtype]]:
    """What `Framework.remark` is told of parts that are loaded.

    Args:
        parts: Files and the tensors of each.
        dtype: What floating-point tensors become.

    Yields:
        Names and dtypes.

    Example:
        >>> from safetensors_core import safe_open
        >>> source, info = safe_open(model_path).locate("bias")
        >>> list(dtypes_of([(source, {"bias": info})], Dtype.F16))
        [('bias', <Dtype.F16: 'F16'>)]
    """
    for _, infos in parts:
        for name, info in infos.items():
            yield name, dtype if dtype is not None and info.dtype in FLOATS else info.dtype


def in_windows(framework: Framework, parts: Iterable[Part], device: Any, nbytes: int) -> list[Part]:
    """Cut parts of files into windows, of which a mapped file keeps no more than is in use.

    Args:
        framework: Makes the tensors.
        parts: Files and the tensors to load from each.
        device: Where the tensors shall live. For one to which files are read, a map is not touched.
        nbytes: What the tensors of a window may have together; a larger one is a window alone.

    Returns:
        The same tensors in the same order.

    Example:
        >>> from safetensors_core import get_framework, safe_open
        >>> source, info = safe_open(model_path, backend="mmap").locate("bias")
        >>> [(window, _)] = in_windows(get_framework("numpy"), [(source, {"bias": info})], "cpu", 8)
        >>> type(window).__name__
        'WindowMap'
    """
    if framework.prefers_map(device):
        parts = [
            (WindowMap(source) if isinstance(source, MappedSource) else source, infos)
            for source, infos in parts
        ]
    return windows(parts, nbytes)


def load_part(
    framework: Framework, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
) -> dict[str, Any]:
    """Load tensors of one file; an error names the file.

    Args:
        framework: Makes the tensors.
        source: The file.
        infos: The tensors to load.
        device: Where they shall live.

    Raises:
        UnsupportedDtypeError: The framework cannot represent a tensor exactly.
        OSError: The file cannot be read.

    Example:
        >>> from safetensors_core import get_framework, safe_open
        >>> source, info = safe_open(model_path).locate("bias")
        >>> load_part(get_framework("numpy"), source, {"bias": info}, "cpu")
        {'bias': array([0., 0., 0.], dtype=float32)}
    """
    try:
        tensors: dict[str, Any] = framework.load(source, infos, device)
    except UnsupportedDtypeError as error:
        error.location = source.location
        raise
    return tensors


def cast_tensors(
    framework: Framework,
    tensors: dict[str, Any],
    infos: Mapping[str, TensorInfo],
    dtypes: Mapping[str, Dtype],
    location: str,
) -> None:
    """Convert tensors, each in the place of what it was made of.

    Args:
        framework: The framework of all.
        tensors: Tensors by name, which are replaced.
        infos: What the file says of them.
        dtypes: What each shall become.
        location: The file, as errors show it.

    Raises:
        InvalidInputError: The framework cannot convert one.

    Example:
        >>> from safetensors_core import get_framework
        >>> tensors = {"w": np.ones(2, np.float32)}
        >>> infos = {"w": TensorInfo(Dtype.F32, (2,), (0, 8))}
        >>> cast_tensors(get_framework("numpy"), tensors, infos, {"w": Dtype.F64}, "a.safetensors")
        >>> tensors
        {'w': array([1., 1.])}
    """
    with collector.paused():
        for name, dtype in dtypes.items():
            if infos[name].dtype is dtype:
                continue
            try:
                tensors[name] = framework.cast(tensors[name], dtype)
            except InvalidInputError as error:
                error.args = (
                    f"{location}: tensor {name!r} cannot be converted by {framework.name}: {error}",
                )
                raise


def _load(framework: Framework, part: Part, device: Any, dtype: Dtype | None) -> dict[str, Any]:
    source, infos = part
    tensors = load_part(framework, source, infos, device)
    if dtype is not None:
        wanted = {name: dtype for name, info in infos.items() if info.dtype in FLOATS}
        cast_tensors(framework, tensors, infos, wanted, source.location)
    return tensors


def _apart(framework: Framework, parts: Sequence[Part], device: Any, dtype: Dtype) -> list[Part]:
    """Of each file, what stays as it is in one part, and the rest in windows."""
    jobs: list[Part] = []
    for source, infos in parts:
        changed = {
            name: info
            for name, info in infos.items()
            if info.dtype in FLOATS and info.dtype is not dtype
        }
        if changed and dtype not in framework.dtypes:
            error = UnsupportedDtypeError(dtype, framework.name, tensor=next(iter(changed)))
            error.location = source.location
            raise error
        kept = {name: info for name, info in infos.items() if name not in changed}
        if kept or not changed:
            jobs.append((source, kept))
        jobs += in_windows(framework, [(source, changed)], device, WINDOW)
    return jobs


def _nbytes(part: Part) -> int:
    return sum(info.nbytes for info in part[1].values())
