"""How far a command is, drawn on a terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(
    activity: str, unit: str, *, wanted: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while a block runs, if that is a terminal and tqdm is installed.

    Args:
        activity: What is done, in one word.
        unit: What is counted: ``"B"`` for bytes.
        wanted: False for no bar anywhere.

    Yields:
        A function to call with what is done so far and with the whole.

    Example:
        >>> with progress_bar("copying", "B") as progress:
        ...     progress(10, 100)
    """
    if not wanted or not _has_terminal() or importlib.util.find_spec("tqdm") is None:
        yield lambda _done, _total: None
        return
    with contextlib.ExitStack() as bars:
        bar: tqdm[Any] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                from tqdm import tqdm

                # Wiped out at the end: what the command did is what it prints.
                scaled = unit == "B"
                bar = tqdm(desc=activity, unit=unit, unit_scale=scaled, total=total, leave=False)
                bars.enter_context(bar)
            bar.update(done - bar.n)

        yield progress


def _has_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
