"""Paths on the command line, refused before anything is measured."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

__all__ = ["existing_folder", "output_path"]


def existing_folder(path: str) -> str:
    """A folder that is there.

    Args:
        path: What a user gave.

    Raises:
        ArgumentTypeError: There is no such folder.
    """
    if not Path(path).is_dir():
        raise ArgumentTypeError(f"there is no folder {path}")
    return path


def output_path(path: str) -> str:
    """A file that can be made.

    Args:
        path: What a user gave.

    Raises:
        ArgumentTypeError: There is no folder for it.
    """
    existing_folder(str(Path(path).parent))
    return path
