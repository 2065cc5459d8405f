"""A part of one tensor's columns, taken by either side in the same way."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.checkpoints import sliced_tensor
from benchmarks.frameworks import handling
from benchmarks.setting import Call, Setting, call

__all__ = ["packed_columns", "used_columns"]


def used_columns(package: str, ways: int) -> Call:
    """Open a file and take a part of a tensor's columns, as a view or as it comes.

    Args:
        package: Whose `safe_open` does it.
        ways: How many such parts the tensor has.

    Returns:
        The side of a case.
    """

    @call(f"get_slice(name)[:, : columns // {ways}]")
    def prepare(setting: Setting) -> Callable[[], Any]:
        name, cut = _cut(package, setting, ways)
        return lambda: {name: cut()}

    return prepare


def packed_columns(package: str, ways: int) -> Call:
    """Open a file and copy a part of a tensor's columns out of it, where it is a view.

    Args:
        package: Whose `safe_open` does it.
        ways: How many such parts the tensor has.

    Returns:
        The side of a case.
    """

    @call(f"get_slice(name)[:, : columns // {ways}], copied where it is a view")
    def prepare(setting: Setting) -> Callable[[], Any]:
        _, cut = _cut(package, setting, ways)
        contiguous = handling(setting.framework).contiguous
        return lambda: contiguous(cut())

    return prepare


def _cut(package: str, setting: Setting, ways: int) -> tuple[str, Callable[[], Any]]:
    safe_open = import_module(package).safe_open
    name, columns = sliced_tensor(setting.checkpoint, setting.scale)

    def cut() -> Any:
        with safe_open(setting.path, setting.framework) as file:
            return file.get_slice(name)[:, : columns // ways]

    return name, cut
