"""The zip archives that `torch.save` writes."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Mapping
from itertools import pairwise

from safetensors_core import ConversionError, UnsafeCheckpointError
from safetensors_core.convert import load_pickle, open_archive
from safetensors_core.sources import FileSource
from safetensors_torch.checkpoints.rebuilding import KNOWN, Storage, storage_of
from safetensors_torch.checkpoints.stored import Contents, Extent

__all__ = ["MOST_BYTES", "explained", "read_archive"]

#: Longest pickle that is read, in bytes: half a million tensors take as much.
MOST_BYTES = 64 * 2**20

_PICKLE = re.compile(r"([^/]+)/data\.pkl")
_CONSTANTS = re.compile(r"[^/]+/constants\.pkl")
# The header in front of an entry's bytes: signature, what the directory also says, then the
# lengths of a name and of an extra field that follow.
_HEADER = struct.Struct("<4s22x2H")
_SIGNATURE = b"PK\x03\x04"


def read_archive(source: FileSource) -> Contents:
    """Read all of an archive but the numbers of its tensors.

    Args:
        source: The file.

    Returns:
        What its pickle holds, and where the storages are: torch keeps them uncompressed.

    Raises:
        UnsafeCheckpointError: It is a program of TorchScript, its pickle asks for more than
            weights need, or the archive does harm.
        ConversionError: It is damaged.

    Example:
        >>> torch.save({"w": torch.zeros(2)}, tmp_path / "a.pt")
        >>> source = FileSource(tmp_path / "a.pt")
        >>> read_archive(source).extents["0"].nbytes
        8
    """
    with open_archive(source.location) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if any(map(_CONSTANTS.fullmatch, names)):
        raise UnsafeCheckpointError(
            "this is a program of TorchScript; where you trust it, load it with torch.jit.load "
            "and save its state_dict()",
            source.location,
        )
    folders = [match[1] for match in map(_PICKLE.fullmatch, names) if match]
    if len(folders) != 1:
        raise ConversionError(f"it holds {len(folders)} pickles instead of one", source.location)
    extents = _extents(entries, f"{folders[0]}/", source)
    pickle = _small(extents["data.pkl"], source)
    order = _small(extents["byteorder"], source) if "byteorder" in extents else b"little"
    if order not in {b"little", b"big"}:
        raise ConversionError(f"its byte order is {order[:20]!r}", source.location)
    try:
        root = load_pickle(io.BytesIO(pickle), source.location, KNOWN, persistent=_storage)
    except UnsafeCheckpointError as error:
        raise explained(error, pickle) from None
    storages = {
        name.removeprefix("data/"): extent
        for name, extent in extents.items()
        if name.startswith("data/")
    }
    return Contents(root, storages, len(pickle), order == b"big")


def explained(error: UnsafeCheckpointError, pickle: bytes) -> UnsafeCheckpointError:
    """The error for a pickle, with what to do if a module or a tensor subclass is in it.

    Args:
        error: What it asks for.
        pickle: The pickle, or its beginning.

    Example:
        >>> error = UnsafeCheckpointError("its pickle asks for 'my.Net'", "a.pt")
        >>> print(explained(error, b"(...X_parameters...X_modules..."))
        a.pt: its pickle asks for 'my.Net'. A whole module seems to be ...; ... its state_dict()
    """
    advice = ""
    if b"_parameters" in pickle and b"_modules" in pickle:
        advice = (
            ". A whole module seems to be in it; where you trust it, load it with torch and save "
            "its state_dict()"
        )
    elif b"_rebuild_from_type_v2" in pickle or b"_rebuild_wrapper_subclass" in pickle:
        advice = (
            ". A tensor subclass seems to be in it; save the plain tensor that it stands for, such "
            "as full_tensor() or dequantize() of it"
        )
    return UnsafeCheckpointError(error.detail + advice, error.location)


def _storage(reference: object) -> Storage:
    if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
        raise ValueError("it refers to what is no storage")
    _, kind, name, _, length = reference
    return storage_of(kind, name, length)


def _extents(
    entries: list[zipfile.ZipInfo], folder: str, source: FileSource
) -> Mapping[str, Extent]:
    """Where the bytes of the entries are, by their names in the folder."""
    extents = {}
    end = zipfile.ZipInfo()
    end.header_offset = source.size
    for entry, following in pairwise([*sorted(entries, key=_position), end]):
        if not entry.filename.startswith(folder) or entry.is_dir():
            continue
        shown = repr(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnsafeCheckpointError(
                f"in the archive, {shown} is compressed, which torch never does", source.location
            )
        header = bytearray(_HEADER.size)
        if entry.header_offset + len(header) <= source.size:
            source.read_into(entry.header_offset, memoryview(header))
        signature, name, extra = _HEADER.unpack(header)
        offset = entry.header_offset + len(header) + name + extra
        if signature != _SIGNATURE or offset + entry.file_size > following.header_offset:
            raise ConversionError(f"in the archive, {shown} is damaged", source.location)
        # torch can be told to save without checksums; it writes zeros then.
        extents[entry.filename.removeprefix(folder)] = Extent(
            offset, entry.file_size, entry.CRC or None
        )
    return extents


def _position(entry: zipfile.ZipInfo) -> int:
    return entry.header_offset


def _small(extent: Extent, source: FileSource) -> bytes:
    """The bytes of an entry that is no storage."""
    if extent.nbytes > MOST_BYTES:
        raise ConversionError(
            f"its pickle has {extent.nbytes:,} bytes, more than the {MOST_BYTES:,} that names and "
            "shapes may take",
            source.location,
        )
    data = bytearray(extent.nbytes)
    if data:
        source.read_into(extent.offset, memoryview(data))
    return bytes(data)
