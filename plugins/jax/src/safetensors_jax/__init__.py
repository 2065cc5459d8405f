"""safetensors files for JAX, Flax, Haiku and Equinox.

The functions take and return arrays; `safetensors_core` has the same ones for any framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import safetensors_core

if TYPE_CHECKING:
    import jax
    from typing_extensions import Buffer

    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend
    from safetensors_jax.pytree import load_pytree, save_pytree

__all__ = [
    "load",
    "load_file",
    "load_pytree",
    "save",
    "save_file",
    "save_pytree",
]

__version__ = "0.1.0"


def save(
    tensors: Mapping[str, jax.Array],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
) -> bytes:
    """Save arrays to bytes.

    Args:
        tensors: Arrays by name, on any devices that this process can reach. Not changed.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.

    Returns:
        The bytes of a file.

    Raises:
        InvalidInputError: A name, a metadata value or an array cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.

    Example:
        >>> len(save({"w": jnp.zeros(4)}))
        80
    """
    return safetensors_core.save(tensors, metadata, alignment=alignment)


def save_file(
    tensors: Mapping[str, jax.Array],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    alignment: int = 8,
    fsync: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Save arrays to a file, whole or not at all.

    Args:
        tensors: Arrays by name, on any devices that this process can reach; those that are not
            on the CPU, or sharded, are copied there one at a time. Not changed.
        filename: Path of the file, or a URL that can be written to.
        metadata: Strings by name to store in the header.
        alignment: The data begins at a multiple of this many bytes, a power of two from 8 on.
            With 64, an array whose predecessors in the file have multiples of 64 bytes is
            loaded on the CPU without a copy.
        fsync: Whether to wait until the file is on disk.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes of the file that are written and the bytes of all. An
            exception of it ends the saving.

    Raises:
        InvalidInputError: A name, a metadata value or an array cannot be saved.
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        OSError: The file system refuses, with `errno` and `filename`.

    Example:
        >>> save_file({"w": jnp.zeros((2, 3))}, tmp_path / "model.safetensors")
    """
    safetensors_core.save_file(
        tensors,
        filename,
        metadata,
        alignment=alignment,
        fsync=fsync,
        storage_options=storage_options,
        progress=progress,
    )


def load(
    data: Buffer,
    device: Any = "cpu",
    *,
    dtype: Any = None,
    max_header: int = safetensors_core.MAX_HEADER,
) -> dict[str, jax.Array]:
    """Load the arrays of a file that is in memory.

    Args:
        data: The bytes of a file. They are copied, because JAX's arrays never change.
        device: Where the arrays shall live, as in `load_file`.
        dtype: What floating-point arrays become, as `load_file` has it.
        max_header: Longest header to accept, in bytes.

    Returns:
        Arrays by name.

    Raises:
        HeaderError: The bytes are not a valid safetensors file.
        UnsupportedDtypeError: JAX cannot represent a tensor exactly.

    Warns:
        UserWarning: Some have 64 bits, with which JAX does not compute unless it is told to.

    Example:
        >>> load(save({"w": jnp.ones(2)}))
        {'w': Array([1., 1.], dtype=float32)}
    """
    return safetensors_core.load(data, "jax", device, dtype=dtype, max_header=max_header)


def load_file(
    filename: str | os.PathLike[str],
    device: Any = "cpu",
    *,
    backend: Backend = "auto",
    keys: str | Iterable[str] | Callable[[str], bool] | None = None,
    dtype: Any = None,
    max_header: int = safetensors_core.MAX_HEADER,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, jax.Array]:
    """Load the arrays of a file, or of a checkpoint of several files.

    Args:
        filename: A file, an index (``*.safetensors.index.json``), a folder, or the URL of one.
        device: Where the arrays shall live: None for JAX's default device, a name such as
            ``"cpu"`` or ``"cuda:1"``, a `jax.Device`, a `jax.sharding.Sharding`, or a mapping
            from names of tensors to any of these, in which a missing name is None. With a
            sharding, each process reads only the parts that its own devices hold.
        backend: ``"mmap"`` (lazy; arrays on the CPU borrow the map where they lie at a multiple
            of 64 bytes), ``"pread"`` (arrays own their memory), or ``"auto"``.
        keys: Which arrays: a name, a prefix that ends in ``*``, several of either, or a
            function of the name. All by default.
        dtype: What floating-point arrays become while they are loaded, a few at a time:
            ``"bfloat16"``, ``"F16"``. All others stay as they are.
        max_header: Longest header to accept, in bytes.
        storage_options: Settings for a URL, as fsspec or its file system names them.
        progress: Called with the bytes that are loaded and the bytes of all, every 64 MiB or so.
            An exception of it ends the loading.

    Returns:
        Arrays by name, in the order of the files and of their bytes in them.

    Raises:
        HeaderError: A file is not a valid safetensors file.
        CheckpointError: The index is not valid, or does not fit to its files.
        InvalidInputError: There is no such device, or a sharding does not suit a tensor.
        TensorNotFoundError: A name or prefix in `keys` matches nothing.
        UnsupportedDtypeError: JAX cannot represent a tensor exactly.
        OSError: The file cannot be opened or read.

    Warns:
        UserWarning: Some have 64 bits, with which JAX does not compute unless it is told to.

    Example:
        >>> save_file({"w": jnp.ones(2)}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")
        {'w': Array([1., 1.], dtype=float32)}
    """
    return safetensors_core.load_file(
        filename,
        "jax",
        device,
        backend=backend,
        keys=keys,
        dtype=dtype,
        max_header=max_header,
        storage_options=storage_options,
        progress=progress,
    )


def __getattr__(name: str) -> object:
    # What works on trees imports JAX, so it is imported when it is used.
    if name in ("load_pytree", "save_pytree"):
        from safetensors_jax import pytree

        return getattr(pytree, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
