"""`safe_open` as the reference has it, and the slices that it gives."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from safetensors_core.compat.arguments import check_name, check_opening, checked_device
from safetensors_core.compat.indexing import checked_index
from safetensors_core.compat.prefetch import PrefetchLoader, TensorMeta, checked_plan
from safetensors_core.compat.settings import is_strict
from safetensors_core.compat.translation import reading
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError, SafetensorError, UnsupportedDtypeError
from safetensors_core.reader import safe_open as open_file
from safetensors_core.tensor_slice import TensorSlice

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PySafeSlice", "safe_open"]

_NOT_IN_NUMPY = {dtype for dtype in Dtype if dtype.bits < 16 and "F" in dtype}


class safe_open:  # noqa: N801  # the name that programs import
    """An open safetensors file, with the methods and the manners of the reference.

    With PyTorch or Paddle and ``backend="mmap"`` tensors borrow a map of the file; otherwise they
    own their memory. `safetensors_core.safe_open` does more.

    Args:
        filename: Path of the file.
        framework: ``"pt"``, ``"np"``, ``"tf"``, ``"flax"``, ``"paddle"`` or ``"mlx"``, or the
            name of any installed plugin.
        device: Where tensors shall live.
        backend: ``"mmap"`` or ``"pread"``.

    Raises:
        SafetensorError: The file is not valid, or an argument is unknown.
        FileNotFoundError: There is no such file.
        OSError: The file cannot be opened.

    Example:
        >>> with safe_open(model_path, framework="np") as f:
        ...     f.keys(), f.get_slice("weight")[:, 1]
        (['bias', 'weight'], array([1., 4.], dtype=float32))
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str,
        device: Any = ...,
        *,
        backend: str = "mmap",
    ) -> None:
        name, self._device = check_opening(filename, framework, device, backend)
        self._framework = name
        self._strict = is_strict()
        # Tensors of the other frameworks own their memory, as they do with the reference: a
        # program may overwrite the file in place and keep them. MLX copies out of any memory.
        self._mapped = name in _MAPPED and backend == "mmap"
        with reading():
            if os.path.isdir(filename):  # no checkpoint: to the reference, a file is a file
                raise IsADirectoryError(
                    errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(filename)
                )
            try:
                self._open: open_file | None = open_file(
                    filename, name, self._device, backend="mmap" if self._mapped else "pread"
                )
            except InvalidInputError as error:
                code = errno.ENODEV
                raise OSError(code, os.strerror(code), os.fspath(filename)) from error

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc_value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the file. Tensors and slices that were handed out stay valid."""
        self._open = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def keys(self) -> list[str]:
        """Names of the tensors, sorted.

        Raises:
            SafetensorError: The file is closed.

        Example:
            >>> safe_open(model_path, "np").keys()
            ['bias', 'weight']
        """
        return self._file().keys()

    def offset_keys(self) -> list[str]:
        """Names of the tensors in the order of their bytes in the file.

        Raises:
            SafetensorError: The file is closed.

        Example:
            >>> safe_open(model_path, "np").offset_keys()
            ['bias', 'weight']
        """
        return self._file().offset_keys()

    def metadata(self) -> dict[str, str] | None:
        """The file's metadata, or None where it has none.

        Raises:
            SafetensorError: The file is closed.

        Example:
            >>> safe_open(model_path, "np").metadata()
            {'format': 'np'}
        """
        return self._file().metadata()

    def get_tensor(self, name: str) -> Any:
        """Load one tensor.

        Args:
            name: Its name.

        Raises:
            SafetensorError: The file has no such tensor, is closed, or holds a dtype that the
                framework does not have.

        Example:
            >>> safe_open(model_path, "np").get_tensor("bias")
            array([0., 0., 0.], dtype=float32)
        """
        check_name(name)
        with reading():
            return self._readable((name,)).get_tensor(name)

    def get_tensors(self) -> dict[str, Any]:
        """Load every tensor, in the order of the file.

        Raises:
            SafetensorError: The file is closed, or holds a dtype that the framework has not.

        Example:
            >>> list(safe_open(model_path, "np").get_tensors())
            ['bias', 'weight']
        """
        file = self._file()
        with reading():
            return self._readable(file.header.tensors).get_tensors()

    def get_slice(self, name: str) -> PySafeSlice:
        """A tensor of which only what is indexed will be loaded.

        Args:
            name: Its name.

        Raises:
            SafetensorError: The file has no such tensor, or is closed.

        Example:
            >>> safe_open(model_path, "np").get_slice("weight").get_shape()
            [2, 3]
        """
        check_name(name)
        with reading():
            file = self._readable((name,))
            indexes = _MAPPED[self._framework] if self._mapped else None
            if indexes is None:
                return PySafeSlice(file, name, strict=self._strict)
            return indexes(file, name, self._device)

    def get_tensor_meta(self, name: str) -> TensorMeta:
        """A tensor's entry in the header; no data is read.

        Args:
            name: Its name.

        Raises:
            SafetensorError: The file has no such tensor, or is closed.

        Example:
            >>> safe_open(model_path, "np").get_tensor_meta("weight")
            TensorMeta(dtype='F32', shape=[2, 3], data_offsets=(12, 36))
        """
        check_name(name)
        file = self._file()
        with reading():
            dtype = file.get_slice(name).get_dtype()
        info = file.header.tensors[name]
        return TensorMeta(dtype, list(info.shape), info.data_offsets)

    def prefetch(
        self,
        plan: Mapping[str, slice | None] | None = None,
        *,
        device: str | int | None = None,
        threads: int = 8,
    ) -> PrefetchLoader:
        """Start loading tensors in the background.

        The reference needs PyTorch and a CUDA device; here any framework and device will do,
        but in strict mode.

        Args:
            plan: Which tensors: None for a whole one, or a slice of its first dimension with
                step 1. Every tensor whole by default.
            device: Where to; the file's own device by default.
            threads: How many tensors are read at a time.

        Returns:
            What hands out each tensor once.

        Raises:
            SafetensorError: The plan names what the file does not have, or cannot be sliced.

        Example:
            >>> with safe_open(model_path, "np").prefetch() as loader:
            ...     sorted(name for name, tensor in loader)
            ['bias', 'weight']
        """
        file = self._file()
        target = self._device if device is None else checked_device(device, self._framework)
        if self._strict and self._framework != "torch":
            raise SafetensorError('prefetch is only compatible with framework="pt"')
        on_cuda = isinstance(target, int) or str(target).startswith("cuda")
        if self._strict and not on_cuda:
            raise SafetensorError(f"prefetch loads to cuda devices, not {target}")
        shapes = {name: info.shape for name, info in file.header.tensors.items()}
        wanted = checked_plan(plan, shapes)
        loads = {name: partial(_load, file, name, rows, target) for name, rows in wanted.items()}
        return PrefetchLoader(loads, threads)

    def _readable(self, names: Iterable[str]) -> open_file:
        """The file, if the reference would give these tensors too or need not be asked."""
        file = self._file()
        if self._strict and self._framework == "numpy":
            for name in names:
                info = file.header.tensors.get(name)
                if info is not None and info.dtype in _NOT_IN_NUMPY:
                    raise UnsupportedDtypeError(info.dtype, "numpy", tensor=name)
        return file

    def _file(self) -> open_file:
        file = self._open  # read once: another thread may close the file
        if file is None:
            raise SafetensorError("File is closed")
        return file


class _safe_open_handle(safe_open):  # noqa: N801  # the reference's name for it
    """A safetensors file that the program opened itself.

    Args:
        f: A binary file object that has a descriptor.
        framework: As for `safe_open`.
        device: As for `safe_open`.
        backend: As for `safe_open`.
    """

    def __init__(
        self, f: BinaryIO, framework: str, device: Any = ..., *, backend: str = "mmap"
    ) -> None:
        super().__init__(f"/dev/fd/{f.fileno()}", framework, device, backend=backend)


class PySafeSlice:
    """A tensor in a file, loaded where it is indexed. Made by `safe_open.get_slice`.

    It takes integers, slices with positive steps and one ellipsis. It stays valid after the
    file is closed.

    Example:
        >>> safe_open(model_path, "np").get_slice("weight")[1, :2]
        array([3., 4.], dtype=float32)
    """

    def __init__(self, file: open_file, name: str, *, strict: bool = False) -> None:
        self._slice: TensorSlice = file.get_slice(name)
        self._strict = strict

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def get_shape(self) -> list[int]:
        """Shape of the whole tensor, as the file has it.

        Example:
            >>> safe_open(model_path, "np").get_slice("bias").get_shape()
            [3]
        """
        return self._slice.get_shape()

    def get_dtype(self) -> str:
        """The format's code of the element type.

        Example:
            >>> safe_open(model_path, "np").get_slice("bias").get_dtype()
            'F32'
        """
        return self._slice.get_dtype()

    def __getitem__(self, index: Any) -> Any:
        with reading():
            return _packed(self._slice[checked_index(index, self.get_shape(), strict=self._strict)])


def _packed(tensor: Any) -> Any:
    """A tensor whose elements lie in order, as programs expect of what was read for them."""
    if hasattr(tensor, "is_contiguous"):
        return tensor if tensor.is_contiguous() else tensor.contiguous()
    flags = getattr(tensor, "flags", None)
    return tensor.copy() if flags is not None and not flags.c_contiguous else tensor


class _MappedPaddleSlice(PySafeSlice):
    """A slice of a mapped tensor of Paddle, which takes every index."""

    def __init__(self, file: open_file, name: str, _device: Any) -> None:
        super().__init__(file, name)

    def __getitem__(self, index: Any) -> Any:
        with reading():
            return self._slice[index]


class _MappedTorchSlice(PySafeSlice):
    """A slice of a mapped tensor of PyTorch, which indexes it itself: a view costs nothing."""

    def __init__(self, file: open_file, name: str, device: Any) -> None:
        super().__init__(file, name)
        self._load = partial(_load, file, name, None, "cpu")
        self._device = device

    def __getitem__(self, index: Any) -> Any:
        return self._load()[index].to(self._device)


# The frameworks whose files are mapped, and how their tensors are indexed: None is the common way.
_MAPPED: dict[str, Callable[[open_file, str, Any], PySafeSlice] | None] = {
    "mlx": None,
    "paddle": _MappedPaddleSlice,
    "torch": _MappedTorchSlice,
}


def _load(file: open_file, name: str, rows: slice | None, device: Any) -> Any:
    """A tensor, or rows of it, on a device that need not be that of the file."""
    source, info = file.locate(name)
    if rows is None:
        return file._framework.load(source, {name: info}, device)[name]
    return TensorSlice(name, info, source, file._framework, device)[rows]
