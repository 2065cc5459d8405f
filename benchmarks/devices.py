"""Devices other than the host: whether there is one, and when a load to it has ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["arrived", "device_is_there"]

_PROBE = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def device_is_there() -> bool:
    """Whether PyTorch finds a CUDA device; it is imported in a process of its own."""
    probe = [sys.executable, "-c", _PROBE]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def arrived(load: Callable[[], dict[str, Any]], device: str) -> Callable[[], dict[str, Any]]:
    """A call that loads tensors of PyTorch and returns when all of them are on the device.

    Args:
        load: Loads them.
        device: Where to.

    Returns:
        The call.
    """
    if device == "cpu":
        return load
    import torch

    def load_and_wait() -> dict[str, Any]:
        tensors = load()
        torch.cuda.synchronize(device)
        return tensors

    return load_and_wait
