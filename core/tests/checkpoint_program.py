"""A program that saves checkpoints and stops at each step in turn; tests run it.

For each step of a save, that is each call of the system that can change anything, the folder is
made anew, and a save into it is killed, interrupted or refused there. What the folder then holds
is printed as JSON.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors_core import Dtype, TensorSpec, parse_header
from safetensors_core.checkpoint.saving import write_checkpoint

STEPS = [
    *("open", "close", "dup", "fchmod", "fsync", "link", "mkdir", "posix_fallocate", "pwritev"),
    *("rename", "rmdir", "unlink"),
]
TENSORS = 3
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def save(folder: Path, value: int, shards: int) -> None:
    """Save tensors of one byte, all with the same value."""
    entries = [
        (f"t{i}", TensorSpec(Dtype.U8, (1,)), lambda: [bytes([value])]) for i in range(TENSORS)
    ]
    write_checkpoint(entries, folder, -(-TENSORS // shards))


def values(path: Path) -> dict[str, int]:
    data = path.read_bytes()
    header = parse_header(data)
    begins = {name: info.data_offsets[0] for name, info in header.tensors.items()}
    return {name: data[header.data_start + begin] for name, begin in begins.items()}


def held(folder: Path) -> list[Any]:
    """What loaders find: the values of the single file and those of the index, if there are any."""
    found: list[Any] = []
    if (folder / SINGLE).exists():
        found.append(sorted(values(folder / SINGLE).values()))
    if (folder / INDEX).exists():
        weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        try:
            found.append(sorted(values(folder / weight_map[name])[name] for name in weight_map))
        except FileNotFoundError:
            found.append("a shard is missing")
    return found


class Stopped:
    """The functions of `os` that change anything, of which one call does not go well."""

    def __init__(self, step: int, stop: Callable[[], None], *, after: bool) -> None:
        self._step, self._stop, self._after = step, stop, after
        self.calls = 0
        for name in STEPS:
            if hasattr(os, name):
                setattr(os, name, self._counting(getattr(os, name)))
        fcntl.flock = self._counting(fcntl.flock)

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls != self._step:
                return real(*arguments, **named)
            if self._after:
                real(*arguments, **named)
            self._stop()
            raise AssertionError("unreachable")

        return call


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def refuse() -> None:
    raise OSError(errno.EIO, "refused")


STOPS = {"kill": kill, "interrupt": interrupt, "refuse": refuse}


def save_and_die(folder: Path, value: int, shards: int) -> None:
    """A save in another process, which is killed once a shard of it has its name."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    rename = os.rename

    def rename_once(source: str, target: str) -> None:
        rename(source, target)
        if os.path.basename(target) != INDEX:
            kill()

    os.rename = rename_once  # type: ignore[assignment]
    save(folder, value, shards)


def steps(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each step that is not taken leaves behind, until a save has no further step."""
    folder = options.folder / "model"
    step = 0
    while True:
        step += 1
        shutil.rmtree(folder, ignore_errors=True)
        if options.before:
            save(folder, 1, options.before)
        if options.killed:
            save_and_die(folder, 4, options.before)
        child = os.fork()
        if not child:
            stopped = Stopped(step, STOPS[options.how], after=options.after)
            if options.no_links:
                os.link = lambda *_, **__: refuse()
            status = 0
            try:
                save(folder, 2, options.now)
                status = 1 if stopped.calls < step else 0
            except BaseException:  # noqa: BLE001
                status = 2
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 1:
            return
        files = sorted(os.listdir(folder)) if folder.exists() else None
        report: dict[str, Any] = {
            "step": step,
            "status": status,
            "files": files,
            "held": held(folder),
        }
        if options.how == "kill":
            save(folder, 3, options.then)
            report["next"] = {"files": sorted(os.listdir(folder)), "held": held(folder)}
        yield report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("how", choices=STOPS)
    parser.add_argument("--before", type=int, default=0, help="files of the old checkpoint")
    parser.add_argument("--now", type=int, default=1, help="files of the new one")
    parser.add_argument("--then", type=int, default=1, help="files of the one after a kill")
    parser.add_argument("--after", action="store_true", help="stop when the call is done")
    parser.add_argument("--killed", action="store_true", help="another save was killed before")
    parser.add_argument("--no-links", action="store_true", help="as where there are no hard links")
    json.dump(list(steps(parser.parse_args())), sys.stdout)


if __name__ == "__main__":
    main()
