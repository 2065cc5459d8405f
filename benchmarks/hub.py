"""A Hub on this machine that serves BLOOM: the server of the tests, in a process of its own."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.remote.hub_server import HubServer
from tests.remote.published import BLOOM, SHARDED, write_sharded

__all__ = ["main", "start_hub"]


@functools.cache
def start_hub(latency: float) -> str:
    """Start the server; it ends with this process.

    Args:
        latency: Seconds from each request to its answer.

    Returns:
        What a client takes as its endpoint.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shards, file_name, _ = SHARDED[BLOOM]
    write_sharded(folder / BLOOM, shards, file_name)
    command = [sys.executable, "-m", "benchmarks.hub", str(folder), str(latency)]
    root = Path(__file__).resolve().parents[1]
    server = subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)  # ends the server's input, for which it waits
    assert server.stdout is not None
    return server.stdout.readline().strip()


def main(folder: str, latency: str) -> None:
    """Serve a folder until the input ends.

    Args:
        folder: As `HubServer` takes it.
        latency: As `start_hub` takes it.
    """
    with HubServer(Path(folder)) as hub:
        hub.latency = float(latency)
        print(hub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
