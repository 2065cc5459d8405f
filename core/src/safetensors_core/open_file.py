"""`safe_open`: a file, or a checkpoint of several files, that is open for reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from safetensors_core.errors import InvalidInputError, UnsupportedDtypeError
from safetensors_core.float_dtypes import parse_dtype
from safetensors_core.framework import Framework
from safetensors_core.header import MAX_HEADER, Header, TensorInfo
from safetensors_core.loading import dtypes_of, in_windows, load_part, load_parts
from safetensors_core.plugins import get_framework
from safetensors_core.progress import Progress
from safetensors_core.read_ahead import ReadAhead
from safetensors_core.shards.shard_set import open_shards
from safetensors_core.sizes import parse_size
from safetensors_core.sources import ByteSource
from safetensors_core.tensor_slice import TensorSlice

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Backend", "safe_open"]

Backend = Literal["auto", "mmap", "pread"]


class safe_open:  # noqa: N801  # the name that programs import from the reference
    """An open safetensors file, or a checkpoint of several, read as far as it is asked for.

    With ``backend="mmap"`` tensors borrow the file's map: they are writable, a write does not
    reach the file, and they stay valid after `close`. With ``backend="pread"``, and from a URL,
    they own their memory. One object may be used from many threads.

    The files of a checkpoint are opened when something of them is asked for, and stay open.

    Args:
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one. An
            installed plugin may open other locations.
        framework: Name or alias of a framework, or a `Framework`.
        device: Where tensors shall live, as the framework spells it.
        backend: ``"mmap"``, ``"pread"``, or ``"auto"``: mmap on a local disk for tensors on the
            host, pread on a network or user-space file system and for other devices, ranges from
            a URL.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.

    Raises:
        HeaderError: The file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        PluginError: The framework's plugin is missing or cannot be used.
        OSError: The file cannot be opened. Of a URL this may be a `RemoteError`.

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
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._framework = get_framework(framework)
        self._device = device
        if backend == "auto" and not self._framework.prefers_map(device):
            backend = "pread"
        self._shards = open_shards(
            filename, backend, max_header=max_header, storage_options=storage_options
        )

    @property
    def header(self) -> Header:
        """The header; that of a checkpoint describes all its files, and opens them.

        Offsets in it count through the data of all files.
        """
        return self._shards.header

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
        return f"<safe_open {self._shards.location!r}: {len(self)} tensors>"

    def __len__(self) -> int:
        return len(self._shards.names)

    def __contains__(self, name: object) -> bool:
        return name in self._shards.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def close(self) -> None:
        """Close all files. Tensors that were loaded stay valid."""
        self._shards.close()

    def keys(self) -> list[str]:
        """Names of the tensors, sorted.

        Example:
            >>> safe_open(model_path).keys()
            ['bias', 'weight']
        """
        return sorted(self._shards.names)

    def offset_keys(self) -> list[str]:
        """Names of the tensors in the order of the files and of their bytes in them.

        Example:
            >>> safe_open(model_path).offset_keys()
            ['bias', 'weight']
        """
        return list(self.header.tensors)

    def metadata(self) -> dict[str, str] | None:
        """The metadata of the file, or of the first file: a copy, or None where it has none.

        Example:
            >>> safe_open(model_path).metadata()
            {'format': 'np'}
        """
        return self._shards.metadata()

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
        source, info = self._shards.locate(name)
        self._framework.remark([(name, info.dtype)])
        return self._load_part(source, {name: info})[name]

    def get_tensors(
        self,
        names: Iterable[str] | None = None,
        *,
        dtype: Any = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Load several tensors with as few reads as that takes.

        Args:
            names: Their names; all by default.
            dtype: What floating-point tensors become, as `load_file` has it.
            progress: Called with the bytes that are loaded and the bytes of all, as `load_file`
                has it.

        Returns:
            Tensors by name, in the order asked for; all come in the order of the file.

        Raises:
            TensorNotFoundError: The file has no such tensor.
            UnsupportedDtypeError: The framework cannot represent one exactly.
            InvalidInputError: `dtype` is none, or the framework cannot convert a tensor.

        Example:
            >>> list(safe_open(model_path).get_tensors(["weight"]))
            ['weight']
        """
        names = _checked_names(names)
        loaded = self._load(names, dtype, progress)
        return loaded if names is None else {name: loaded[name] for name in names}

    def iter_tensors(
        self, names: Iterable[str] | None = None, *, window: int | str = "256MB"
    ) -> Iterator[tuple[str, Any]]:
        """Load tensors one after the other, in the order of the files and of their bytes.

        While the caller works with some, the next ones are read in the background. So this is the
        way to go through more than fits into memory, and to overlap a network with computing.

        Args:
            names: Their names; all by default.
            window: Bytes that are read at a time, as a number or as a text such as ``"1GiB"``. Two
                windows are in memory at once, beside what the caller keeps; a tensor that is
                larger than a window is one alone. Of a file that is mapped, a window is a map of
                its own, which ends with the last tensor of it that the caller keeps.

        Yields:
            A name and its tensor.

        Raises:
            TensorNotFoundError: The file has no such tensor.
            UnsupportedDtypeError: The framework cannot represent one exactly.

        Example:
            >>> for name, tensor in safe_open(model_path).iter_tensors():
            ...     print(name, tensor.sum())
            bias 0.0
            weight 15.0
        """
        nbytes = parse_size(window)
        parts = in_windows(
            self._framework, self._shards.parts(_checked_names(names)), self._device, nbytes
        )
        self._framework.remark(dtypes_of(parts))
        with ReadAhead(parts, ahead=1) as ready:
            for part in ready:
                yield from self._load_part(*part).items()

    def locate(self, name: str) -> tuple[ByteSource, TensorInfo]:
        """Where the bytes of a tensor are.

        Args:
            name: Its name.

        Returns:
            The source of its file, and its entry there: the bytes begin at
            ``source.header.data_start + info.data_offsets[0]``.

        Raises:
            TensorNotFoundError: The file has no such tensor.

        Example:
            >>> source, info = safe_open(model_path).locate("weight")
            >>> source.location == str(model_path), info.nbytes
            (True, 24)
        """
        return self._shards.locate(name)

    def _load(
        self, names: list[str] | None, dtype: Any, progress: Progress | None
    ) -> dict[str, Any]:
        """Tensors in the order of the files and of their bytes."""
        target = None if dtype is None else parse_dtype(dtype)
        parts = self._shards.parts(names)
        return load_parts(self._framework, parts, self._device, dtype=target, progress=progress)

    def _load_part(self, source: ByteSource, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
        return load_part(self._framework, source, infos, self._device)

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
        source, info = self._shards.locate(name)
        try:
            self._framework.check_dtypes({name: info})
        except UnsupportedDtypeError as error:
            error.location = source.location
            raise
        self._framework.remark([(name, info.dtype)])
        return TensorSlice(name, info, source, self._framework, self._device)


def _checked_names(names: Iterable[str] | None) -> list[str] | None:
    if isinstance(names, str):  # its letters would be taken for names
        raise InvalidInputError(f"expected names of tensors in a list, got the string {names!r}")
    return None if names is None else list(names)
