"""How much memory a call takes at its peak, on top of what the process had before.

The kernel keeps a high-water mark of resident memory, which counts mapped pages of files too,
but none of anonymous memory, which is what a call really takes away from others. That one is
watched from a second process, because a call that holds the interpreter lock stops a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["measure_peak"]

_FIELDS = {"VmRSS": "rss", "RssAnon": "anon", "VmHWM": "high"}
_WATCHER = """
import select, sys
with open(f"/proc/{sys.argv[1]}/status", "rb", buffering=0) as status:
    peak = 0
    print(flush=True)
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        status.seek(0)
        text = status.read(65536)
        peak = max(peak, int(text.split(b"RssAnon:")[1].split(None, 1)[0]))
print(peak * 1024)
"""


def measure_peak(action: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    """Call something and find the most memory that it took at any time.

    Args:
        action: What to call.

    Returns:
        What it returned, and the peaks in bytes on top of what was there before: ``"rss"``, all
        resident memory, and ``"anon"``, memory that is no page of a file. The latter is read
        once a millisecond, so a shorter peak is missed. The kernel's own counts lag by up to
        1 MiB.
    """
    gc.collect()
    # What the C library kept of freed memory would hide the next allocation of that size.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        assert watcher.stdout
        watcher.stdout.readline()  # it runs
        # Sets the high-water mark to what is resident now.
        with open("/proc/self/clear_refs", "w", encoding="ascii") as marks:
            marks.write("5")
        before = _status()
        result = action()
        after = _status()
        watched = int(watcher.communicate("\n")[0])
    return result, {
        "rss": max(0, after["high"] - before["rss"]),
        "anon": max(0, max(watched, after["anon"]) - before["anon"]),
    }


def _status() -> dict[str, int]:
    """What the kernel says about this process, in bytes."""
    found = {}
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in _FIELDS:
                found[_FIELDS[name]] = int(value.split()[0]) * 1024
    return found
