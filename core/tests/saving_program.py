"""A program that saves one tensor and prints, as JSON, how that went; tests run it.

A process of its own can be traced, limited, killed, or made somebody else's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors_core import Dtype, TensorSpec, save_stream

NOBODY = 65534


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--fill", type=int, default=1, help="value of every byte")
    parser.add_argument("--size", type=int, default=1000, help="bytes of the tensor")
    parser.add_argument("--chunk", type=int, default=1 << 20, help="bytes that come at a time")
    parser.add_argument("--saves", type=int, default=1, help="how often to save")
    parser.add_argument("--no-fsync", action="store_true")
    parser.add_argument("--no-fallocate", action="store_true", help="as on a system without it")
    parser.add_argument("--token", help="make the name of the temporary file known")
    parser.add_argument("--file-size-limit", type=int)
    parser.add_argument("--wait", action="store_true", help="for input, halfway")
    parser.add_argument("--drop-privileges", action="store_true", help="where there are any")
    return parser.parse_args()


def chunks(options: argparse.Namespace) -> Iterator[bytes]:
    for begin in range(0, options.size, options.chunk):
        if options.wait and begin >= options.size // 2:
            options.wait = False
            sys.stdout.write("halfway\n")
            sys.stdout.flush()
            sys.stdin.readline()
        yield bytes([options.fill]) * min(options.chunk, options.size - begin)


def peak_memory() -> int:
    """Most memory the process has had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def save(options: argparse.Namespace) -> None:
    entry = ("w", TensorSpec(Dtype.U8, (options.size,)), lambda: chunks(options))
    save_stream([entry], options.target, fsync=not options.no_fsync)


def main() -> None:
    options = arguments()
    # Whatever the first save imports is imported before this process is limited in any way.
    rehearsal = Path(os.devnull + "-rehearsal", "model.safetensors")
    with contextlib.suppress(OSError):
        save_stream([], rehearsal)
    if options.token:
        secrets.token_hex = lambda nbytes=None: str(options.token)  # noqa: ARG005
    if options.no_fallocate:
        del os.posix_fallocate
    if options.file_size_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_size_limit,) * 2)
    if options.drop_privileges and os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    report: dict[str, object] = {"error": None}
    before = peak_memory()
    try:
        for _ in range(options.saves):
            save(options)
    except OSError as error:
        report |= {"error": "OSError", "errno": error.errno, "filename": error.filename}
    report["grown"] = peak_memory() - before
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
