"""Recognising files that people take for safetensors files."""

from __future__ import annotations

import re

from safetensors_core.errors import HeaderError, Reason

__all__ = ["recognise"]

_CONVERT = "if it holds weights, 'safetensors-core convert' may read it"
_MAGIC = (
    (b"PK\x03\x04", Reason.ZIP_ARCHIVE, "a zip archive, such as torch.save writes", _CONVERT),
    (b"PK\x05\x06", Reason.ZIP_ARCHIVE, "an empty zip archive", _CONVERT),
    (b"GGUF", Reason.OTHER_FORMAT, "a GGUF file", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", Reason.OTHER_FORMAT, "an HDF5 file", _CONVERT),
    (b"\x93NUMPY", Reason.OTHER_FORMAT, "a NumPy .npy file", _CONVERT),
    (b"\x1f\x8b", Reason.OTHER_FORMAT, "a gzip archive", "decompress it first"),
    (b"\x28\xb5\x2f\xfd", Reason.OTHER_FORMAT, "a zstd archive", "decompress it first"),
)
_LFS = re.compile(rb"version https://git-lfs[^\n]*\n(?:.*\n)*?size (\d+)")
_HTML = re.compile(rb"\s*<(!doctype\s+html|html|head|\?xml)", re.IGNORECASE)
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]{8,}")
_SHOWN = 40  # bytes of a text file that an error quotes


def recognise(beginning: bytes, size: int) -> HeaderError | None:
    r"""Name the format of a file that is not a safetensors file.

    Args:
        beginning: The file's first bytes, a few hundred where there are as many.
        size: Size of the file in bytes.

    Returns:
        An error to raise that names the format and the remedy; None for an unknown format.

    Example:
        >>> recognise(b"PK\x03\x04" + bytes(60), 64).reason
        <Reason.ZIP_ARCHIVE: 'zip-archive'>
    """
    if beginning.startswith(b"version https://git-lfs"):
        found = _LFS.match(beginning)
        stands_for = f" for {int(found[1]):,} bytes" if found else ""
        return HeaderError(
            Reason.GIT_LFS_POINTER,
            f"the file is a git-LFS pointer{stands_for}, not the file itself; run: git lfs pull",
        )
    if _HTML.match(beginning):
        return HeaderError(
            Reason.HTML_PAGE,
            "the file is an HTML page, not a safetensors file: the download may have met a "
            "login or an error page; download it again",
        )
    for magic, reason, name, remedy in _MAGIC:
        if beginning.startswith(magic):
            return HeaderError(reason, f"the file is {name}, not a safetensors file; {remedy}")
    # A safetensors header of a few hundred bytes also begins with 0x80 and a small number.
    if re.match(rb"\x80[\x02-\x05]", beginning) and beginning[8:9] != b"{":
        return HeaderError(
            Reason.PICKLE,
            "the file is a Python pickle, not a safetensors file; a pickle can run code when it "
            f"is loaded: {_CONVERT}, in its safe mode",
        )
    if _TEXT.fullmatch(beginning[:64]):
        return HeaderError(
            Reason.OTHER_FORMAT,
            f"the file is text ({beginning[:_SHOWN].decode('ascii')!r}…, {size:,} bytes), not a "
            "safetensors file: the download may have failed",
        )
    return None
