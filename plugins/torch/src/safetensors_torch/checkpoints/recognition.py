"""Which files are PyTorch's. Importing this module does not import PyTorch."""

from __future__ import annotations

import os
import re
from enum import Enum

from safetensors_core import ConversionError
from safetensors_core.convert import open_archive

__all__ = ["Kind", "recognise"]

_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_ZIP = b"PK\x03\x04"
# How pickle writes the number that torch.save began its files with before 1.6.
_MAGIC_NUMBER = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# What begins a pickle: its protocol, or in the oldest ones a global, a dict or a list.
_PICKLE = re.compile(rb"\x80[\x02-\x05]|c[\w.]+\n[\w.]+\n|\([dl]p0\n|[}\]]q\x00")
_TAR_MEMBERS = (b"sys_info\0", b"pickle\0", b"storages\0", b"tensors\0")


class Kind(Enum):
    """The file formats that are PyTorch's.

    Attributes:
        ARCHIVE: The zip archive that `torch.save` writes, or one of TorchScript.
        LEGACY: What `torch.save` wrote before 1.6: pickles, then the numbers.
        PICKLE: A bare pickle under a name that promises a checkpoint.
        TAR: The format of PyTorch 0.1.

    Example:
        >>> Kind.LEGACY.value
        'legacy'
    """

    ARCHIVE = "archive"
    LEGACY = "legacy"
    PICKLE = "pickle"
    TAR = "tar"


def recognise(path: str | os.PathLike[str]) -> Kind | None:
    """Which of PyTorch's formats a file has, by its first bytes.

    Args:
        path: A file or folder.

    Returns:
        None if it has none of them, or is no file.

    Raises:
        UnsafeCheckpointError: It is a zip archive that does harm, and named like a checkpoint.
        ConversionError: It is a damaged zip archive, and named like a checkpoint.
        OSError: It cannot be read.

    Example:
        >>> _ = (tmp_path / "a.bin").write_bytes(b"no checkpoint")
        >>> recognise(tmp_path / "a.bin") is None
        True
    """
    if not os.path.isfile(path):  # a checkpoint of TensorFlow is named by how its files begin
        return None
    with open(path, "rb") as file:
        beginning = file.read(512)
    promised = os.fsdecode(path).lower().endswith(_SUFFIXES)
    kind = None
    if beginning.startswith(_ZIP):
        kind = Kind.ARCHIVE if _holds_torch(path, beginning, promised) else None
    elif beginning.startswith(b"\x80") and _MAGIC_NUMBER in beginning[:32]:
        kind = Kind.LEGACY
    elif beginning[257:262] == b"ustar" and beginning.startswith(_TAR_MEMBERS):
        kind = Kind.TAR
    elif promised and _PICKLE.match(beginning):
        kind = Kind.PICKLE
    return kind


def _holds_torch(path: str | os.PathLike[str], beginning: bytes, promised: bool) -> bool:
    try:
        with open_archive(path) as archive:
            names = archive.namelist()
    except ConversionError:
        # The name of the first entry follows its header.
        if promised or b"/data.pkl" in beginning[30:]:
            raise
        return False
    return any(re.fullmatch(r"[^/]+/(?:data|constants)\.pkl", name) for name in names)
