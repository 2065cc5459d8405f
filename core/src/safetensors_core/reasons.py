"""The codes that errors carry: one for each rule that can be broken."""

from __future__ import annotations

import enum

__all__ = ["CheckpointReason", "Reason"]


class Reason(str, enum.Enum):
    """Why a header was rejected: one stable code for each rule of the format.

    A member equals its code, so programs may compare with plain strings.

    Example:
        >>> Reason.TRUNCATED == "truncated"
        True
    """

    # the file as a whole
    EMPTY = "empty"
    TOO_SHORT = "too-short"
    GIT_LFS_POINTER = "git-lfs-pointer"
    HTML_PAGE = "html-page"
    ZIP_ARCHIVE = "zip-archive"
    PICKLE = "pickle"
    OTHER_FORMAT = "other-format"
    HEADER_TOO_LARGE = "header-too-large"
    HEADER_TRUNCATED = "header-truncated"
    TRUNCATED = "truncated"
    TRAILING_DATA = "trailing-data"
    # the header as text
    NOT_UTF8 = "not-utf8"
    NOT_AN_OBJECT = "not-an-object"
    INVALID_JSON = "invalid-json"
    LONE_SURROGATE = "lone-surrogate"
    TOO_DEEP = "too-deep"
    # names and fields
    DUPLICATE_NAME = "duplicate-name"
    DUPLICATE_FIELD = "duplicate-field"
    DUPLICATE_METADATA = "duplicate-metadata"
    INVALID_METADATA = "invalid-metadata"
    INVALID_ENTRY = "invalid-entry"
    MISSING_FIELD = "missing-field"
    UNKNOWN_DTYPE = "unknown-dtype"
    INVALID_SHAPE = "invalid-shape"
    INVALID_OFFSETS = "invalid-offsets"
    # what the entries say together
    REVERSED_OFFSETS = "reversed-offsets"
    GAP = "gap"
    OVERLAP = "overlap"
    SIZE_OVERFLOW = "size-overflow"
    PARTIAL_BYTE = "partial-byte"
    SIZE_MISMATCH = "size-mismatch"

    __str__ = str.__str__


class CheckpointReason(str, enum.Enum):
    """Why a checkpoint was rejected, or warned about: one stable code for each fault.

    A member equals its code, so programs may compare with plain strings.

    Example:
        >>> CheckpointReason.MISSING_SHARD == "missing-shard"
        True
    """

    # what is there
    NO_CHECKPOINT = "no-checkpoint"
    AMBIGUOUS = "ambiguous"
    # the index as a text
    INVALID_INDEX = "invalid-index"
    OUTSIDE_FOLDER = "outside-folder"
    # the index and its files
    MISSING_SHARD = "missing-shard"
    MISSING_TENSOR = "missing-tensor"
    DUPLICATE_TENSOR = "duplicate-tensor"
    # harmless, so only warned about
    UNLISTED_TENSOR = "unlisted-tensor"
    WRONG_TOTAL_SIZE = "wrong-total-size"

    __str__ = str.__str__
