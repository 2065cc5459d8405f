"""Arrays in a folder that Orbax wrote, read one at a time with TensorStore."""

from __future__ import annotations

import math
import os
import re
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from safetensors_core import ConversionError, TensorSpec, UnsafeCheckpointError
from safetensors_core.convert import StoredTensor
from safetensors_jax.checkpoints.trees import find_dtype

__all__ = ["StoredArrays", "expansion_error"]

_CACHE = {"cache_pool#ocdbt": {"total_bytes_limit": 64 * 2**20}}
_MANIFEST = "manifest.ocdbt"
_PROCESS = "ocdbt.process_"


def expansion_error(size: int, location: str) -> UnsafeCheckpointError:
    """The error for a folder whose arrays would fill memory or disk.

    Args:
        size: Bytes that they claim to hold.
        location: The folder.

    Returns:
        The error, to be raised.

    Example:
        >>> print(expansion_error(10**12, "model"))
        model: its arrays claim to hold 1,000,000,000,000 bytes, many times what the folder holds
    """
    return UnsafeCheckpointError(
        f"its arrays claim to hold {size:,} bytes, many times what the folder holds", location
    )


class StoredArrays:
    """The arrays of one tree, in Zarr 2 or 3, with a file for each chunk or in an OCDBT database.

    Args:
        folder: Their folder.
        zarr3: Whether they are in Zarr 3.
        sparse: Whether a chunk that is missing is full of zeros; otherwise it is lost.
        limit: Bytes that a chunk may have.

    Raises:
        ConversionError: TensorStore is not installed, or Orbax did not finish the folder.

    Example:
        >>> import tensorstore
        >>> spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(tmp_path / "w")}}
        >>> tensorstore.open(spec, dtype="int8", shape=[3], create=True).result()[...] = 7
        >>> arrays = StoredArrays(str(tmp_path), zarr3=False, sparse=False, limit=2**20)
        >>> arrays.stored("w", "w").read()
        array([7, 7, 7], dtype=int8)
    """

    def __init__(self, folder: str, *, zarr3: bool, sparse: bool, limit: int) -> None:
        self._folder = folder
        self._driver = "zarr3" if zarr3 else "zarr"
        self._sparse = sparse
        self._limit = limit
        self._ocdbt = os.path.exists(os.path.join(folder, _MANIFEST))
        if not self._ocdbt and any(name.startswith(_PROCESS) for name in os.listdir(folder)):
            raise ConversionError(
                f"there is no {_MANIFEST}: Orbax did not finish this checkpoint", folder
            )
        self._tensorstore = _import_tensorstore(folder)
        self._context = self._tensorstore.Context(_CACHE)

    def stored(self, key: str, name: str) -> StoredTensor:
        """An array as a tensor, of which only the description is read.

        Args:
            key: Its own name in the folder.
            name: The name of the tensor.

        Returns:
            The tensor.

        Raises:
            ConversionError: It is not there, or damaged.
            UnsafeCheckpointError: Its key leaves the folder.
            UnsupportedDtypeError: The format lacks its dtype.
        """
        store = self._open(key, name)
        code = find_dtype(store.dtype.name, name, self._folder)
        return StoredTensor(TensorSpec(code, store.shape), partial(self._read, store, name))

    def scalar(self, key: str) -> str | None:
        """A number of Python, as a text.

        Args:
            key: Its name in the folder.

        Returns:
            The number, or None if there is an array with dimensions.

        Raises:
            ConversionError: It is not there, or damaged.
            UnsafeCheckpointError: Its key leaves the folder.
        """
        store = self._open(key, key)
        return None if store.rank else str(self._read(store, key).item())

    def _open(self, key: str, name: str) -> Any:
        """An array of the tree, of which only the description was read."""
        parts = re.split(r"[/\\]", key)
        if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:$", parts[0]):
            raise UnsafeCheckpointError(
                f"its tree holds the key {key!r}, which leaves the folder", self._folder
            )
        base: dict[str, Any] = {"driver": "file", "path": os.path.join(self._folder, "")}
        if self._ocdbt:
            base = {
                "driver": "ocdbt",
                "base": base,
                "path": key,
                "cache_pool": "cache_pool#ocdbt",
            }
        else:
            base["path"] += key
        spec = {
            "driver": self._driver,
            "kvstore": base,
            "recheck_cached_data": False,
            "recheck_cached_metadata": False,
            "fill_missing_data_reads": self._sparse,
        }
        try:
            store = self._tensorstore.open(
                spec, open=True, read=True, context=self._context
            ).result()
            chunk = store.chunk_layout.read_chunk.shape or ()
            held = math.prod(chunk) * store.dtype.numpy_dtype.itemsize
        except Exception as error:  # noqa: BLE001  # whatever TensorStore makes of damage
            raise self._failed(name, error) from None
        if held > self._limit:
            raise expansion_error(held, self._folder)
        return store

    def _read(self, store: Any, name: str) -> npt.NDArray[Any]:
        try:
            return np.asarray(store.read(order="C").result())
        except Exception as error:  # noqa: BLE001  # whatever TensorStore makes of damage
            raise self._failed(name, error) from None

    def _failed(self, name: str, error: Exception) -> ConversionError:
        # TensorStore adds the whole description of what it opened.
        cause = str(error).split(" [tensorstore_spec=")[0].splitlines()[0]
        if "Invalid key" in cause:
            return UnsafeCheckpointError(
                f"tensor {name!r} lies outside of the folder: {cause}", self._folder
            )
        return ConversionError(f"tensor {name!r} cannot be read: {cause}", self._folder)


def _import_tensorstore(folder: str) -> Any:
    try:
        import tensorstore
    except ImportError as error:
        raise ConversionError(
            f"this is a checkpoint of Orbax, which TensorStore reads: {error}. Try: pip install "
            '"safetensors-jax[orbax]"',
            folder,
        ) from None
    return tensorstore
