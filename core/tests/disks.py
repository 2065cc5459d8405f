"""Disks of a size that a test chooses, where the system lets one be mounted."""

from __future__ import annotations

import functools
import shutil
import subprocess

__all__ = ["why_no_disk_can_be_mounted"]


@functools.cache
def why_no_disk_can_be_mounted() -> str:
    """The reason to skip a test that mounts a disk; empty if there is none."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    probe = subprocess.run(command, check=False, capture_output=True, text=True)
    return f"no disk can be mounted here: {probe.stderr.strip()}" if probe.returncode else ""
