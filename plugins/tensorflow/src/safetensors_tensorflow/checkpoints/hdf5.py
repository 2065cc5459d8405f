"""HDF5 files of strangers, read through `h5py`: their tensors, and nothing outside of the file.

HDF5 can name other files, store next to nothing for an array of any size, and link groups in
circles. All of this is refused before any data is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from safetensors_core import Dtype, TensorSpec, UnsupportedDtypeError
from safetensors_core.convert import StoredTensor
from safetensors_core.convert.archives import MAX_EXPANSION
from safetensors_core.errors import ConversionError, SafetensorError, UnsafeCheckpointError
from safetensors_numpy.framework import NumpyFramework
from safetensors_tensorflow.checkpoints.hdf5_input import Hdf5Input

if TYPE_CHECKING:
    import h5py

__all__ = ["Hdf5File"]

Array = npt.NDArray[Any]

_DEEPEST = 100  # groups in each other
_ALWAYS_ALLOWED = 2**30  # bytes
_CHUNK = 16 * 2**20  # bytes
# What h5py brings itself: deflate, shuffle, checksums. For others, HDF5 would look for libraries.
_FILTERS = {1, 2, 3}
_NUMPY = NumpyFramework()


class Hdf5File:
    """An open HDF5 file, of which everything was checked that is in it.

    Attributes:
        location: The file as errors show it.
        datasets: Its datasets by path, in the order of their paths; numbers by their value.
        groups: Its groups by path; the first has the path ``""``.

    Example:
        >>> import h5py
        >>> with h5py.File(tmp_path / "a.h5", "w") as file:
        ...     file["layer/w"] = np.zeros(3)
        >>> with Hdf5Input(open(tmp_path / "a.h5", "rb")) as file:
        ...     list(Hdf5File(file, "a.h5").datasets)
        ['layer/w']
    """

    def __init__(self, file: Hdf5Input, location: str) -> None:
        try:
            import h5py
        except ImportError:
            raise ConversionError(
                "to read HDF5 files, install h5py: python -m pip install h5py", location
            ) from None
        self.location = location
        self.datasets: dict[str, h5py.Dataset] = {}
        self.groups: dict[str, h5py.Group] = {}
        self._size = file.size
        self._addresses: set[int] = set()
        with self._reading("its structure"):
            self._file = h5py.File(file, "r")
        try:
            with self._reading("its structure"):
                self._walk(self._file, "", 0)
                claimed = sum(_nbytes(dataset) for dataset in self.datasets.values())
            self._check_size(claimed, "it")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; the file object that it was made of stays open."""
        with self._reading("its end"):
            self._file.close()

    def has(self, attribute: str) -> bool:
        """Whether the file itself has an attribute.

        Args:
            attribute: Its name.

        Returns:
            True if it is there, whatever it holds.
        """
        with self._reading("its attributes"):
            return attribute in self._file.attrs

    def texts(self, group: str, attribute: str) -> list[str] | None:
        """An attribute that is a text, or a list of texts, perhaps in several pieces.

        Args:
            group: Path of the group that it belongs to.
            attribute: Its name. Where a list is too long for one, Keras puts numbers behind.

        Returns:
            The texts; None if there is no such attribute.

        Raises:
            ConversionError: It is damaged, or something else.
        """
        with self._reading(f"attribute {attribute!r} of {group!r}"):
            attributes = self.groups[group].attrs
            names = [attribute] if attribute in attributes else []
            while not names or names[-1] != attribute:
                if f"{attribute}{len(names)}" not in attributes:
                    break
                names.append(f"{attribute}{len(names)}")
            texts: list[str] = []
            for name in names:
                self._check_attribute(attributes, name)
                found = np.ravel(np.asarray(attributes[name])).tolist()
                texts += [t.decode() if isinstance(t, bytes) else str(t) for t in found]
            return texts if names else None

    def tensor(self, path: str, name: str) -> StoredTensor | None:
        """A tensor, of which nothing is read yet.

        Args:
            path: Path of its dataset.
            name: What errors shall call it.

        Returns:
            The tensor; None if the dataset holds texts.

        Raises:
            UnsupportedDtypeError: The format has no equivalent of its dtype.
            ConversionError: Its values are not all in the file.
            UnsafeCheckpointError: They are outside of the file, or expand without measure.
        """
        import h5py

        dataset = self.datasets[path]
        with self._reading(f"tensor {name!r}"):
            if h5py.check_string_dtype(dataset.dtype) is not None:
                return None
            self._check_storage(dataset, name)
            dtype = self._find_dtype(dataset, name)
            spec = TensorSpec(_NUMPY.describe(np.empty(0, dtype)).dtype, dataset.shape)
            key = (id(self), h5py.h5o.get_info(dataset.id).addr)
            plain = dataset.chunks is None and dataset.ndim > 0

        def read() -> Array:
            with self._reading(f"tensor {name!r}"):
                return np.asarray(dataset[()]).view(dtype)

        def chunks() -> Iterator[memoryview]:
            rows = max(1, _CHUNK * dataset.shape[0] // max(1, spec.nbytes))
            for begin in range(0, dataset.shape[0], rows):
                with self._reading(f"tensor {name!r}"):
                    part = np.asarray(dataset[begin : begin + rows]).view(dtype)
                yield _NUMPY.to_buffer(part)

        return StoredTensor(spec, read, chunks if plain else None, key)

    def _walk(self, group: h5py.Group, path: str, depth: int) -> None:
        import h5py

        if depth > _DEEPEST:
            raise UnsafeCheckpointError(
                f"its groups are nested over {_DEEPEST} deep", self.location
            )
        # A group under two names may hold itself, or double at every step.
        address = h5py.h5o.get_info(group.id).addr
        if address in self._addresses:
            raise UnsafeCheckpointError(f"its group {path!r} has another name, too", self.location)
        self._addresses.add(address)
        self.groups[path] = group
        names = list(group)
        for name in names:
            if not isinstance(name, str):  # what is no text, h5py gives as bytes
                raise ConversionError(f"the name {name!r} in it is no text", self.location)
        for name in sorted(names, key=_order):
            inner = f"{path}/{name}".lstrip("/")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "a link to another file" if isinstance(link, h5py.ExternalLink) else "a link"
                raise UnsafeCheckpointError(f"{inner!r} in it is {kind}", self.location)
            item = group[name]
            if isinstance(item, h5py.Group):
                self._walk(item, inner, depth + 1)
            elif isinstance(item, h5py.Dataset):
                self.datasets[inner] = item

    def _check_storage(self, dataset: h5py.Dataset, name: str) -> None:
        if dataset.external:
            raise UnsafeCheckpointError(
                f"the values of {name!r} are in another file, {dataset.external[0][0]!r}",
                self.location,
            )
        if dataset.is_virtual:
            raise UnsafeCheckpointError(
                f"the values of {name!r} are those of other datasets", self.location
            )
        properties = dataset.id.get_create_plist()
        for index in range(properties.get_nfilters()):
            code, _, _, kind = properties.get_filter(index)
            if code not in _FILTERS:
                raise ConversionError(
                    f"{name!r} is stored with filter {code} ({kind.decode(errors='replace')}), "
                    "of which nothing is known: store it again without",
                    self.location,
                )
        if dataset.shape is None:
            raise ConversionError(f"{name!r} has no values", self.location)
        stored = dataset.id.get_storage_size()
        if stored > self._size:
            raise ConversionError(
                f"{name!r} would take {stored:,} bytes of a file of {self._size:,}", self.location
            )
        whole = dataset.size == 0 or stored > 0
        if dataset.chunks is not None:
            self._check_size(math.prod(dataset.chunks) * dataset.dtype.itemsize, repr(name))
            counts = (-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
            whole = dataset.id.get_num_chunks() == math.prod(counts)
        if not whole:
            raise ConversionError(
                f"the values of {name!r} were never written: save the file again", self.location
            )

    def _find_dtype(self, dataset: h5py.Dataset, name: str) -> np.dtype[Any]:
        dtype: np.dtype[Any] = dataset.dtype
        declared = self._declared_dtype(dataset)
        # HDF5 has no bfloat16: Keras writes two bytes without a meaning, and since version 3 what
        # they are beside them. No other type of two bytes is written so.
        if dtype == np.dtype("V2") and declared in (None, "bfloat16"):
            return NumpyFramework.dtypes[Dtype.BF16]
        # A float of a width of its own would be read as a wider one.
        exact = dataset.id.get_type().get_size() == dtype.itemsize
        if dtype.kind in "biufc" and dtype.subdtype is None and exact and declared is None:
            try:
                _NUMPY.describe(np.empty(0, dtype))
            except UnsupportedDtypeError:
                pass
            else:
                return dtype
        shown = declared or ("of one byte without a meaning" if dtype == "V1" else dtype)
        raise UnsupportedDtypeError(shown, "the safetensors format", tensor=name)

    def _declared_dtype(self, dataset: h5py.Dataset) -> str | None:
        if "dtype" not in dataset.attrs:
            return None
        self._check_attribute(dataset.attrs, "dtype")
        return str(dataset.attrs["dtype"])

    def _check_attribute(self, attributes: h5py.AttributeManager, name: str) -> None:
        import h5py

        stored = attributes.get_id(name)
        # HDF5 can crash on lists of other things whose description is damaged.
        if math.prod(stored.shape) and h5py.check_string_dtype(stored.dtype) is None:
            raise ValueError("it is no text")
        if math.prod(map(int, stored.shape)) * stored.dtype.itemsize > self._size:
            raise ValueError("it would be larger than the file")

    def _check_size(self, nbytes: int, what: str) -> None:
        if nbytes > max(MAX_EXPANSION * self._size, _ALWAYS_ALLOWED):
            raise UnsafeCheckpointError(
                f"{what} claims to hold {nbytes:,} bytes in a file of {self._size:,}", self.location
            )

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn what h5py raises into an error that says which file is damaged."""
        try:
            yield
        except UnsupportedDtypeError as error:
            error.location = self.location
            raise
        except SafetensorError:
            raise
        except Exception as error:  # noqa: BLE001  # HDF5 can fail in any way on a damaged file
            detail = " ".join(str(error).split())
            raise ConversionError(
                f"{what} cannot be read: {type(error).__name__}: {detail}", self.location
            ) from None


def _nbytes(dataset: h5py.Dataset) -> int:
    # In Python's own numbers: those of HDF5 and NumPy would go round.
    itemsize: int = dataset.dtype.itemsize
    return math.prod(map(int, (0,) if dataset.shape is None else dataset.shape)) * itemsize


def _order(name: str) -> list[tuple[int, str]]:
    """Names in the order of the alphabet, and numbers in theirs."""
    return [(int(p), p) if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]
