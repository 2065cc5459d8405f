"""What a verification finds, and the report of it."""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

__all__ = ["Finding", "FindingCode", "Report", "unreadable"]


class FindingCode(str, enum.Enum):
    """What a verification finds beside faults of the format and of an index.

    Those have the codes of `Reason` and `CheckpointReason`. A member equals its code.

    Example:
        >>> FindingCode.CHECKSUM_MISMATCH == "checksum-mismatch"
        True
    """

    CHECKSUM_MISMATCH = "checksum-mismatch"
    MISSING_CHECKSUM = "missing-checksum"
    INVALID_CHECKSUMS = "invalid-checksums"
    UNREADABLE = "unreadable"
    STRAY_FILE = "stray-file"
    LEFTOVER = "leftover"

    __str__ = str.__str__


class Finding(msgspec.Struct, frozen=True):
    """One thing that a verification found.

    Attributes:
        severity: ``"fault"``; ``"unreadable"`` where nobody can say whether there is one; or
            ``"warning"`` for what does the checkpoint no harm.
        code: What it is: a `Reason`, a `CheckpointReason` or a `FindingCode`.
        message: What was found and what was expected.
        file: Path or URL of the file.
        tensor: The tensor; None where it is not about a single one.

    Example:
        >>> Finding("fault", "empty", "the file is empty", "a.safetensors").tensor is None
        True
    """

    severity: Literal["fault", "unreadable", "warning"]
    code: str
    message: str
    file: str
    tensor: str | None = None


def unreadable(path: str, error: Exception) -> Finding:
    """What is found where a file cannot be read.

    Args:
        path: Path or URL of the file.
        error: What was raised.

    Returns:
        The finding.

    Example:
        >>> unreadable("a.safetensors", PermissionError(13, "Permission denied")).message
        'it cannot be read: Permission denied'
    """
    cause = getattr(error, "strerror", None) or str(error)
    code = FindingCode.UNREADABLE.value
    return Finding("unreadable", code, f"it cannot be read: {cause}", path)


class Report(msgspec.Struct, frozen=True):
    """What a verification looked at and what it found.

    Attributes:
        location: What the user gave.
        files: How many safetensors files were looked into.
        tensors: How many tensors they hold.
        nbytes: Size of the files in bytes.
        checked: Files, the index among them, of which every byte was compared with a checksum.
        tensors_checked: How many tensors were compared with a checksum in their file's metadata.
        findings: What was found.

    Example:
        >>> Report("a.safetensors", 1, 2, 300, [], 0, []).healthy
        True
    """

    location: str
    files: int
    tensors: int
    nbytes: int
    checked: list[str]
    tensors_checked: int
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether everything could be read, and nothing is wrong.

        Example:
            >>> finding = Finding("warning", "leftover", "a save was killed", ".a.safetensors-part")
            >>> Report("model", 1, 0, 16, [], 0, [finding]).healthy
            True
        """
        return all(finding.severity == "warning" for finding in self.findings)

    @property
    def complete(self) -> bool:
        """Whether everything could be read.

        Example:
            >>> finding = Finding("unreadable", "unreadable", "Permission denied", "a.safetensors")
            >>> Report("model", 1, 0, 0, [], 0, [finding]).complete
            False
        """
        return all(finding.severity != "unreadable" for finding in self.findings)
