"""SHA-256 sums of files and tensors: how they are computed, and how they are written down.

Beside a checkpoint they stand in a text that ``sha256sum -c`` takes: one sum for each file. In a
file they stand in its metadata: one sum for each tensor, and one for what the header says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from safetensors_core.errors import InvalidInputError
from safetensors_core.header import Header
from safetensors_core.sources.base import ByteSource

__all__ = [
    "METADATA_KEY",
    "SUMS_SUFFIX",
    "FileSums",
    "TensorSums",
    "compute_sums",
    "encode_sums",
    "header_matches",
    "metadata_with_sums",
    "parse_sums",
    "sums_in_metadata",
]

#: What the name of a file of sums ends with, behind the name of the file or index it is for.
SUMS_SUFFIX = ".sha256sums"
#: Key of the metadata under which a file keeps the sums of its own tensors.
METADATA_KEY = "safetensors-core.sha256"

_CHUNK = 8 * 1024 * 1024  # bytes that are read at a time

# The format of coreutils: a backslash in front says that the name is escaped.
_LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)", re.DOTALL)
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_ESCAPED = re.compile(r"\\(.?)", re.DOTALL)
_UNESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}
_SUM = re.compile(r"[0-9a-f]{64}")


class FileSums(NamedTuple):
    """What one pass over a file found.

    Attributes:
        file: Sum of all bytes of the file.
        tensors: Sum of the bytes of each tensor, by name.

    Example:
        >>> FileSums("00", {"w": "01"}).tensors["w"]
        '01'
    """

    file: str
    tensors: dict[str, str]


class TensorSums(NamedTuple):
    """What a file says of itself.

    Attributes:
        header: Sum of what the header says and of all other sums; see `metadata_with_sums`.
        tensors: Sum of the bytes of each tensor, by name.

    Example:
        >>> TensorSums("00", {"w": "01"}).header
        '00'
    """

    header: str
    tensors: dict[str, str]


def compute_sums(
    source: ByteSource, progress: Callable[[int], object] = lambda _nbytes: None
) -> FileSums:
    """Read a file once, from its first byte to its last, in pieces, and sum it up.

    Args:
        source: The file, its header read.
        progress: Called with the size of each piece in bytes. What it raises ends the reading.

    Returns:
        Its sum and those of its tensors.

    Raises:
        OSError: The storage failed.

    Example:
        >>> from safetensors_core import save
        >>> from safetensors_core.sources import MemorySource
        >>> source = MemorySource(save({}))
        >>> _ = source.read_header()
        >>> compute_sums(source).tensors
        {}
    """
    header = source.header
    whole, part = hashlib.sha256(), hashlib.sha256()
    sums: dict[str, str] = {}
    ends = iter([("", header.data_start), *_ends(header)])
    name, end = next(ends)
    for offset, piece in _pieces(source):
        whole.update(piece)
        taken = 0
        while True:
            rest = piece[taken : end - offset]
            part.update(rest)
            taken += len(rest)
            if offset + taken < end:
                break
            sums[name], part = part.hexdigest(), hashlib.sha256()
            name, end = next(ends, ("", source.size + 1))
        progress(len(piece))
    # The first one, that of the header, is left out.
    return FileSums(whole.hexdigest(), {name: sums[name] for name in header.tensors})


def _ends(header: Header) -> Iterator[tuple[str, int]]:
    """The tensors in file order, with the byte of the file after the last one of each."""
    for name, info in header.tensors.items():
        yield name, header.data_start + info.data_offsets[1]


def _pieces(source: ByteSource) -> Iterator[tuple[int, memoryview]]:
    buffer = memoryview(bytearray(min(_CHUNK, source.size)))
    for offset in range(0, source.size, _CHUNK):
        piece = buffer[: source.size - offset]
        source.read_into(offset, piece)
        yield offset, piece


def encode_sums(sums: Mapping[str, str]) -> str:
    r"""Sums of files as ``sha256sum`` writes them.

    Args:
        sums: Sum by name of the file, relative to the folder in which the text will lie.

    Returns:
        One line for each file.

    Example:
        >>> encode_sums({"a.safetensors": "00" * 32})[60:]
        '0000  a.safetensors\n'
    """
    lines = []
    for name, digest in sums.items():
        escaped = "".join(_ESCAPES.get(char, char) for char in name)
        mark = "\\" if escaped != name else ""
        lines.append(f"{mark}{digest}  {escaped}\n")
    return "".join(lines)


def parse_sums(text: str) -> dict[str, str]:
    """Read sums of files.

    Args:
        text: What ``sha256sum`` or `encode_sums` wrote.

    Returns:
        Sum by name of the file.

    Raises:
        InvalidInputError: It is something else, or has two lines for one file.

    Example:
        >>> parse_sums(encode_sums({"a.safetensors": "00" * 32})).keys()
        dict_keys(['a.safetensors'])
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise InvalidInputError(f"line {number} is not a SHA-256 sum, two spaces and a name")
        mark, digest, name = found.groups()
        if mark:
            name = _ESCAPED.sub(lambda escape: _UNESCAPED.get(escape[1], escape[0]), name)
        if name in sums:
            raise InvalidInputError(f"line {number} is the second one for {name!r}")
        sums[name] = digest
    return sums


def metadata_with_sums(header: Header, tensors: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file with the sums of its tensors in it.

    The sum of the header is that of a JSON text in ASCII, with sorted keys and without spaces:
    an object of `metadata`, without the entry of the sums, and of `tensors`, each of them a list
    of dtype, shape and sum. So it depends on neither the order of the tensors nor their offsets.

    Args:
        header: What the file says so far.
        tensors: Sum of the bytes of each tensor, by name.

    Returns:
        Its metadata, with the sums under `METADATA_KEY`.

    Example:
        >>> metadata_with_sums(Header({}, {"format": "pt"}, 8), {}).keys()
        dict_keys(['format', 'safetensors-core.sha256'])
    """
    sums = TensorSums(_header_sum(header, tensors), dict(sorted(tensors.items())))
    return {**(header.metadata or {}), METADATA_KEY: _encoded(sums)}


def sums_in_metadata(header: Header) -> TensorSums | None:
    """Read the sums that a file keeps of itself.

    Args:
        header: What the file says.

    Returns:
        Its sums; None where it has none.

    Raises:
        InvalidInputError: They cannot be read.

    Example:
        >>> sums_in_metadata(Header({}, {"format": "pt"}, 8)) is None
        True
    """
    text = (header.metadata or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        document = json.loads(text)
        sums = TensorSums(document["header"], document["tensors"])
        are_sums = all(map(_SUM.fullmatch, [sums.header, *sums.tensors.values()]))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        are_sums, sums = False, TensorSums("", {})
    # Written in another way, it might say the same key twice.
    if not are_sums or text != _encoded(sums):
        raise InvalidInputError(f"metadata {METADATA_KEY!r} holds no sums as they are written here")
    return sums


def _encoded(sums: TensorSums) -> str:
    return json.dumps(sums._asdict(), separators=(",", ":"))


def header_matches(header: Header, sums: TensorSums) -> bool:
    """Whether a header, and the sums in it, say what they said when the sums were written.

    Args:
        header: What the file says.
        sums: What `sums_in_metadata` gave.

    Returns:
        True if nothing was changed.

    Example:
        >>> header = Header({}, {}, 8)
        >>> signed = Header({}, metadata_with_sums(header, {}), 8)
        >>> header_matches(signed, sums_in_metadata(signed))
        True
    """
    return _header_sum(header, sums.tensors) == sums.header


def _header_sum(header: Header, sums: Mapping[str, str]) -> str:
    metadata = {k: v for k, v in (header.metadata or {}).items() if k != METADATA_KEY}
    # A tensor that has no sum, or a sum of no tensor, makes another text.
    names = {*header.tensors, *sums}
    tensors = {name: [*_description(header, name), sums.get(name)] for name in names}
    document = {"metadata": metadata, "tensors": tensors}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _description(header: Header, name: str) -> list[object]:
    info = header.tensors.get(name)
    return [] if info is None else [info.dtype.value, list(info.shape)]
