"""The files that `torch.save` wrote before 1.6: five pickles, then the numbers."""

from __future__ import annotations

from typing import BinaryIO

from safetensors_core import ConversionError, UnsafeCheckpointError
from safetensors_core.convert import load_pickle
from safetensors_core.sources import FileSource
from safetensors_torch.checkpoints.archive import MOST_BYTES, explained
from safetensors_torch.checkpoints.rebuilding import KNOWN, Storage, storage_of
from safetensors_torch.checkpoints.stored import Contents, Extent

__all__ = ["check_plain_pickle", "read_legacy"]

_PROTOCOL_VERSION = 1001
_EXPLAINING = 2**20  # bytes of a refused pickle that are looked at once more


def read_legacy(source: FileSource) -> Contents:
    """Read all of a file but the numbers of its tensors.

    Args:
        source: The file.

    Returns:
        What its pickle holds, and where the storages are.

    Raises:
        UnsafeCheckpointError: A pickle asks for more than weights need.
        ConversionError: It is damaged.

    Example:
        >>> path = tmp_path / "a.pt"
        >>> torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
        >>> [extent.nbytes for extent in read_legacy(FileSource(path)).extents.values()]
        [8]
    """
    storages: dict[str, Storage] = {}

    def remember(reference: object) -> Storage:
        storage = _storage(reference)
        first = storages.setdefault(storage.name, storage)
        if (first.dtype.itemsize, first.length) != (storage.dtype.itemsize, storage.length):
            raise ValueError(f"the storage {storage.name!r} is described in two ways")
        return storage

    location = source.location
    with open(location, "rb") as file:
        load_pickle(file, location, limit=MOST_BYTES)  # the number that the file begins with
        version = load_pickle(file, location, limit=MOST_BYTES)
        if version != _PROTOCOL_VERSION:
            raise ConversionError("its version of the format is not the only one", location)
        load_pickle(file, location, limit=MOST_BYTES)  # about the machine; numbers are little
        begin = file.tell()
        try:
            root = load_pickle(file, location, KNOWN, persistent=remember, limit=MOST_BYTES)
        except UnsafeCheckpointError as error:
            file.seek(begin)
            raise explained(error, file.read(_EXPLAINING)) from None
        pickle_size = file.tell() - begin
        names = load_pickle(file, location, limit=MOST_BYTES)
        if type(names) is not list or not all(type(name) is str for name in names):
            raise ConversionError("its list of storages is damaged", location)
        if len(names) != len(set(names)):
            raise ConversionError("a storage is twice in its list", location)
        return Contents(root, _extents(file, names, storages, source), pickle_size)


def check_plain_pickle(source: FileSource) -> None:
    """Refuse a pickle that `torch.save` did not write, and say why.

    Args:
        source: The file.

    Raises:
        ConversionError: Always.

    Example:
        >>> import os, pickle
        >>> path = tmp_path / "a.bin"
        >>> _ = path.write_bytes(pickle.dumps(os.system))
        >>> check_plain_pickle(FileSource(path))
        Traceback (most recent call last):
        safetensors_core.errors.UnsafeCheckpointError: ...a.bin: its pickle asks for ...
    """
    with open(source.location, "rb") as file:
        load_pickle(file, source.location, limit=MOST_BYTES)
    raise ConversionError("this is a pickle, but not one that torch.save wrote", source.location)


def _storage(reference: object) -> Storage:
    if type(reference) is not tuple or len(reference) != 6 or reference[0] != "storage":
        raise ValueError("it refers to what is no storage")
    _, kind, name, _, length, view = reference
    return storage_of(kind, name, length, view)


def _extents(
    file: BinaryIO, names: list[str], storages: dict[str, Storage], source: FileSource
) -> dict[str, Extent]:
    """Where the storages are, which follow the last pickle, each after its length."""
    extents = {}
    offset = file.tell()
    for name in names:
        storage = storages.get(name)
        if storage is None:
            raise ConversionError(f"nothing refers to its storage {name!r}", source.location)
        file.seek(offset)
        length = int.from_bytes(file.read(8), "little", signed=True)
        offset += 8
        if length != storage.length or offset + storage.nbytes > source.size:
            raise ConversionError(
                f"its storage {storage.name!r} of {storage.nbytes:,} bytes is cut off, or not as "
                "long as it says",
                source.location,
            )
        extents[storage.name] = Extent(offset, storage.nbytes)
        offset += storage.nbytes
    return extents
