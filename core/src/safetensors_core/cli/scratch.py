"""Temporary files that leave with the command that made them."""

from __future__ import annotations

import contextlib
import errno
import shutil
import signal
import tempfile
from collections.abc import Iterator

from safetensors_core.sizes import size_text

__all__ = ["temporary_folder", "unwinding_on_signals"]

_SPARE = 1_000_000  # bytes for a header and for what the file system itself needs


@contextlib.contextmanager
def temporary_folder(nbytes: int) -> Iterator[str]:
    """A folder with room for a file, removed when the block ends, however it ends.

    Args:
        nbytes: Size of the file in bytes.

    Yields:
        The folder, in the system's place for temporary files.

    Raises:
        OSError: There is too little space.

    Example:
        >>> import os
        >>> with temporary_folder(1000) as folder:
        ...     os.listdir(folder)
        []
    """
    parent = tempfile.gettempdir()
    free = shutil.disk_usage(parent).free
    if free < nbytes + _SPARE:
        raise OSError(
            errno.ENOSPC,
            f"{size_text(nbytes + _SPARE)} are needed here for a moment and {size_text(free)} are "
            "free; TMPDIR can name a folder on another disk",
            parent,
        )
    prefix = "safetensors-core-demo-"
    with unwinding_on_signals(), tempfile.TemporaryDirectory(prefix=prefix) as folder:
        yield folder


@contextlib.contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """Let signals that end the process do so as an exception, so that clean-up still happens.

    Example:
        >>> with unwinding_on_signals():
        ...     signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        False
    """

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = [signal.SIGTERM, signal.SIGHUP]
    # One that is ignored, as nohup has it, stays so.
    changed = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
