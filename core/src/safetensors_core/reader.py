"""Reading: `safe_open`, its slices, `load_file` and `load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from safetensors_core.errors import (
    InvalidInputError,
    TensorNotFoundError,
    UnsupportedDtypeError,
)
from safetensors_core.framework import Framework
from safetensors_core.header import MAX_HEADER, Header, TensorInfo
from safetensors_core.plugins import get_framework, open_source
from safetensors_core.sources import ByteSource, MemorySource
from safetensors_core.tensor_slice import TensorSlice

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = ["TensorSlice", "load", "load_file", "read_header", "safe_open"]

Backend = Literal["auto", "mmap", "pread"]


class safe_open:  # noqa: N801  # the name that programs import from the reference
    """An open safetensors file, read as far as it is asked for.

    With ``backend="mmap"`` tensors borrow the file's map: they are writable, a write does not
    reach the file, and they stay valid after `close`. With ``backend="pread"`` they own their
    memory. One object may be used from many threads.

    Args:
        filename: Path of the file, or a location that an installed plugin opens.
        framework: Name or alias of a framework, or a `Framework`.
        device: Where tensors shall live, as the framework spells it.
        backend: ``"mmap"``, ``"pread"``, or ``"auto"``: mmap on a local disk, pread on a
            network or user-space file system.
        max_header: Longest header to accept, in bytes.

    Raises:
        HeaderError: The file is not a valid safetensors file.
        PluginError: The framework's plugin is missing or cannot be used.
        OSError: The file cannot be opened.

    Example:
        >>> from safetensors_core import save_file
        >>> path = tmp_path / "model.safetensors"
        >>> save_file({"w": np.arange(6.0).reshape(2, 3)}, path)
        >>> with safe_open(path, "numpy") as f:
        ...     f.keys(), f.get_slice("w")[:, 1]
        (['w'], array([1., 4.]))
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str | Framework = "numpy",
        device: Any = "cpu",
        *,
        backend: Backend = "auto",
        max_header: int = MAX_HEADER,
    ) -> None:
        self._framework = get_framework(framework)
        self._device = device
        self._source = open_source(filename, backend)
        self.header: Header = _read_header(self._source, max_header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<safe_open {self._source.location!r}: {len(self)} tensors>"

    def __len__(self) -> int:
        return len(self.header.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.header.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def close(self) -> None:
        """Close the file. Tensors that were loaded stay valid."""
        self._source.close()

    def keys(self) -> list[str]:
        """Names of the tensors, sorted.

        Example:
            >>> safe_open(model_path).keys()
            ['bias', 'weight']
        """
        return sorted(self.header.tensors)

    def offset_keys(self) -> list[str]:
        """Names of the tensors in the order of their bytes in the file.

        Example:
            >>> safe_open(model_path).offset_keys()
            ['bias', 'weight']
        """
        return list(self.header.tensors)

    def metadata(self) -> dict[str, str] | None:
        """The file's metadata: a copy, or None where the file has none.

        Example:
            >>> safe_open(model_path).metadata()
            {'format': 'np'}
        """
        return None if self.header.metadata is None else dict(self.header.metadata)

    def get_tensor(self, name: str) -> Any:
        """Load one tensor.

        Args:
            name: Its name.

        Returns:
            A tensor of the framework, on the device; its memory as the class describes.

        Raises:
            TensorNotFoundError: The file has no such tensor.
            UnsupportedDtypeError: The framework cannot represent it exactly.

        Example:
            >>> safe_open(model_path).get_tensor("bias")
            array([0., 0., 0.], dtype=float32)
        """
        return self.get_tensors((name,))[name]

    def get_tensors(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Load several tensors with as few reads as that takes.

        Args:
            names: Their names; all by default.

        Returns:
            Tensors by name, in the order asked for; all come in the order of the file.

        Raises:
            TensorNotFoundError: The file has no such tensor.
            UnsupportedDtypeError: The framework cannot represent one exactly.

        Example:
            >>> list(safe_open(model_path).get_tensors(["weight"]))
            ['weight']
        """
        infos = self.header.tensors
        if names is not None:
            infos = {name: self._info(name) for name in names}
        try:
            tensors: dict[str, Any] = self._framework.load(self._source, infos, self._device)
        except UnsupportedDtypeError as error:
            error.location = self._source.location
            raise
        return tensors

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor of which only what is indexed will be loaded.

        Args:
            name: Its name.

        Returns:
            An object to index, once or often, while the file is open.

        Raises:
            TensorNotFoundError: The file has no such tensor.
            UnsupportedDtypeError: The framework cannot represent it exactly.

        Example:
            >>> safe_open(model_path).get_slice("weight")[-1, ::2]
            array([3., 5.], dtype=float32)
        """
        info = self._info(name)
        try:
            self._framework.check_dtypes({name: info})
        except UnsupportedDtypeError as error:
            error.location = self._source.location
            raise
        return TensorSlice(name, info, self._source, self._framework, self._device)

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.header.tensors[name]
        except (KeyError, TypeError):
            raise TensorNotFoundError(
                str(name), self._source.location, self.header.tensors
            ) from None


def load_file(
    filename: str | os.PathLike[str],
    framework: str | Framework = "numpy",
    device: Any = "cpu",
    *,
    backend: Backend = "auto",
    keys: str | Iterable[str] | Callable[[str], bool] | None = None,
    max_header: int = MAX_HEADER,
) -> dict[str, Any]:
    """Load the tensors of a file.

    Args:
        filename: Path of the file, or a location that an installed plugin opens.
        framework: Name or alias of a framework, or a `Framework`.
        device: Where the tensors shall live, as the framework spells it.
        backend: ``"mmap"`` (lazy; tensors borrow the map), ``"pread"`` (tensors own their
            memory), or ``"auto"``: mmap on a local disk, pread on a network file system.
        keys: Which tensors: a name, a prefix that ends in ``*``, several of either, or a
            function of the name. All by default.
        max_header: Longest header to accept, in bytes.

    Returns:
        Tensors by name, in the order of the file.

    Raises:
        HeaderError: The file is not a valid safetensors file.
        TensorNotFoundError: A name or prefix in `keys` matches nothing.
        UnsupportedDtypeError: The framework cannot represent a tensor exactly.
        PluginError: The framework's plugin is missing or cannot be used.
        OSError: The file cannot be opened or read.

    Example:
        >>> load_file(model_path, keys="b*")
        {'bias': array([0., 0., 0.], dtype=float32)}
    """
    with safe_open(filename, framework, device, backend=backend, max_header=max_header) as file:
        return file.get_tensors(None if keys is None else _select(file, keys))


def load(
    data: Buffer,
    framework: str | Framework = "numpy",
    device: Any = "cpu",
    *,
    max_header: int = MAX_HEADER,
) -> dict[str, Any]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file: bytes, bytearray, memoryview, mmap.
        framework: Name or alias of a framework, or a `Framework`.
        device: Where the tensors shall live, as the framework spells it.
        max_header: Longest header to accept, in bytes.

    Returns:
        Tensors by name, in the order of the file. They borrow `data` where it is writable, so
        a write to one is a write to the other; read-only data is copied.

    Raises:
        HeaderError: The bytes are not a valid safetensors file.
        InvalidInputError: `data` is not a contiguous buffer.
        UnsupportedDtypeError: The framework cannot represent a tensor exactly.
        PluginError: The framework's plugin is missing or cannot be used.

    Example:
        >>> from safetensors_core import save
        >>> load(save({"w": np.ones(2)}))
        {'w': array([1., 1.])}
    """
    backing = get_framework(framework)
    source = MemorySource(data)
    infos = _read_header(source, max_header).tensors
    tensors: dict[str, Any] = backing.load(source, infos, device)
    return tensors


def read_header(filename: str | os.PathLike[str], *, max_header: int = MAX_HEADER) -> Header:
    """Read the header of a file and nothing else.

    Args:
        filename: Path of the file, or a location that an installed plugin opens.
        max_header: Longest header to accept, in bytes.

    Returns:
        The validated header.

    Raises:
        HeaderError: The file is not a valid safetensors file.
        OSError: The file cannot be opened or read.

    Example:
        >>> read_header(model_path).tensors["weight"].shape
        (2, 3)
    """
    source = open_source(filename, "pread")
    header = _read_header(source, max_header)
    source.close()
    return header


def _read_header(source: ByteSource, max_header: int) -> Header:
    try:
        return source.read_header(max_header)
    except BaseException:
        source.close()
        raise


def _select(file: safe_open, keys: str | Iterable[str] | Callable[[str], bool]) -> list[str]:
    """Names that a selection stands for, in the order of the file."""
    names = file.offset_keys()
    if callable(keys):
        return [name for name in names if keys(name)]
    if isinstance(keys, str):
        keys = [keys]
    wanted: set[str] = set()
    for key in _checked_keys(keys):
        if key.endswith("*") and key not in file:
            found = {name for name in names if name.startswith(key[:-1])}
        else:
            found = {key} & file.header.tensors.keys()
        if not found:
            raise TensorNotFoundError(key, file._source.location, names)
        wanted |= found
    return [name for name in names if name in wanted]


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
