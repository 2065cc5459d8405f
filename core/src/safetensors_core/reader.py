"""Reading: `load_file`, `load` and `read_header`, beside `safe_open` and its slices."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from safetensors_core import collector
from safetensors_core.errors import InvalidInputError, TensorNotFoundError
from safetensors_core.float_dtypes import parse_dtype
from safetensors_core.framework import Framework
from safetensors_core.header import MAX_HEADER, Header
from safetensors_core.loading import dtypes_of, load_parts
from safetensors_core.open_file import Backend, safe_open
from safetensors_core.plugins import get_framework
from safetensors_core.progress import Progress
from safetensors_core.shards.shard_set import open_shards
from safetensors_core.sources import MemorySource
from safetensors_core.sources.local import is_url
from safetensors_core.tensor_slice import TensorSlice

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Backend", "TensorSlice", "load", "load_file", "read_header", "safe_open"]


def load_file(
    filename: str | os.PathLike[str],
    framework: str | Framework = "numpy",
    device: Any = "cpu",
    *,
    backend: Backend = "auto",
    keys: str | Iterable[str] | Callable[[str], bool] | None = None,
    dtype: Any = None,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Load the tensors of a file, or of a checkpoint of several files.

    Args:
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one. An
            installed plugin may open other locations.
        framework: Name or alias of a framework, or a `Framework`.
        device: Where the tensors shall live, as the framework spells it.
        backend: ``"mmap"`` (lazy; tensors borrow the map), ``"pread"`` (tensors own their
            memory), or ``"auto"``: mmap on a local disk for tensors on the host, pread on a network
            file system and for other devices.
        keys: Which tensors: a name, a prefix that ends in ``*``, several of either, or a
            function of the name. All by default. Files without any of them are not opened.
        dtype: What floating-point tensors become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``, a `Dtype`. All others stay as they are: integers, booleans,
            complex numbers, F8_E8M0, and those of 4 and 6 bits.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so,
            from the thread that called this function. An exception of it ends the loading.

    Returns:
        Tensors by name, in the order of the files and of their bytes in them.

    Raises:
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        InvalidInputError: `dtype` is none, or the framework cannot convert a tensor.
        TensorNotFoundError: A name or prefix in `keys` matches nothing.
        UnsupportedDtypeError: The framework cannot represent a tensor exactly.
        PluginError: The framework's plugin is missing or cannot be used.
        OSError: The file cannot be opened or read. Of a URL this may be a `RemoteError`.

    Example:
        >>> load_file(model_path, keys="b*")
        {'bias': array([0., 0., 0.], dtype=float32)}
        >>> load_file(model_path, dtype="float16")["weight"].dtype
        dtype('float16')
    """
    # Of entries and tensors by the thousands, nothing is garbage before the entries are. But
    # nobody's garbage shall wait for a server.
    with contextlib.nullcontext() if is_url(filename) else collector.paused():
        file = safe_open(
            filename,
            framework,
            device,
            backend=backend,
            max_header=max_header,
            storage_options=storage_options,
        )
        if dtype is None and progress is None and file._shards.is_mapped:  # nothing is waited for
            with file:
                return _load(file, keys, None, None)
    with file:
        return _load(file, keys, dtype, progress)


def load(
    data: Buffer,
    framework: str | Framework = "numpy",
    device: Any = "cpu",
    *,
    dtype: Any = None,
    max_header: int = MAX_HEADER,
) -> dict[str, Any]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file: bytes, bytearray, memoryview, mmap.
        framework: Name or alias of a framework, or a `Framework`.
        device: Where the tensors shall live, as the framework spells it.
        dtype: What floating-point tensors become, as `load_file` has it.
        max_header: Longest header to accept, in bytes.

    Returns:
        Tensors by name, in the order of the file. They borrow `data` where it is writable, so
        a write to one is a write to the other; read-only data is copied.

    Raises:
        HeaderError: The bytes are not a valid safetensors file.
        InvalidInputError: `data` is not a contiguous buffer, `dtype` is no dtype, or the
            framework cannot convert a tensor.
        UnsupportedDtypeError: The framework cannot represent a tensor exactly.
        PluginError: The framework's plugin is missing or cannot be used.

    Example:
        >>> from safetensors_core import save
        >>> load(save({"w": np.ones(2)}))
        {'w': array([1., 1.])}
    """
    backing = get_framework(framework)
    target = None if dtype is None else parse_dtype(dtype)
    source = MemorySource(data)
    infos = source.read_header(max_header).tensors
    if target is None:  # no location that would help in an error
        backing.remark(dtypes_of([(source, infos)]))
        tensors: dict[str, Any] = backing.load(source, infos, device)
        return tensors
    return load_parts(backing, [(source, infos)], device, dtype=target)


def read_header(
    filename: str | os.PathLike[str],
    *,
    max_header: int = MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
) -> Header:
    """Read the header of a file and nothing else.

    Args:
        filename: As `safe_open` takes it. The header of a checkpoint describes all its files.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.

    Returns:
        The validated header.

    Raises:
        HeaderError: The file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        OSError: The file cannot be opened or read.

    Example:
        >>> read_header(model_path).tensors["weight"].shape
        (2, 3)
    """
    shards = open_shards(filename, "auto", max_header=max_header, storage_options=storage_options)
    with contextlib.closing(shards):
        return shards.header


def _load(file: safe_open, keys: Any, dtype: Any, progress: Progress | None) -> dict[str, Any]:
    names = None if keys is None else _select(file, keys)
    return file._load(names, dtype, progress)


def _select(file: safe_open, keys: str | Iterable[str] | Callable[[str], bool]) -> list[str]:
    """Names that a selection stands for."""
    names = file.keys()
    if callable(keys):
        return [name for name in names if keys(name)]
    if isinstance(keys, str):
        keys = [keys]
    asked = _checked_keys(keys)
    wanted = set(asked).intersection(names)
    for key in asked:
        if key not in wanted:
            found = _beginning_with(names, key[:-1]) if key.endswith("*") else []
            if not found:
                raise TensorNotFoundError(key, file._shards.location, names)
            wanted.update(found)
    return [name for name in names if name in wanted]


def _beginning_with(names: list[str], prefix: str) -> list[str]:
    """The names that begin with a prefix: sorted, they stand together."""
    begin = bisect_left(names, prefix)
    end = bisect_right(names, prefix, begin, key=lambda name: name[: len(prefix)])
    return names[begin:end]


def _checked_keys(keys: Any) -> list[str]:
    try:
        checked = list(keys)
    except TypeError:
        checked = [None]
    if not all(isinstance(key, str) for key in checked):
        raise InvalidInputError(
            f"keys must be names, prefixes that end in '*', or a function of the name: got {keys!r}"
        )
    return checked
