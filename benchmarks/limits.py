"""What the machine can do at most: the same bytes moved with nothing around it.

A limit is a side like others, measured between them. It loads no tensors, so it has no value to
compare; each call checks that it moved all bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints import nbytes, shapes
from benchmarks.frameworks import handling
from benchmarks.setting import Setting, call
from safetensors_core import collector
from safetensors_core.threads import worker_count

_CHUNK = 8 * 1024 * 1024  # bytes that a thread moves at once
Bytes = npt.NDArray[np.uint8]


@call("numpy.copyto of as many bytes, both ends touched before")
def copy_memory(setting: Setting) -> Callable[[], Any]:
    """Copy memory with as many threads as our reads use."""
    size = nbytes(setting.checkpoint, setting.scale)
    source, target = _touched(size), _touched(size)
    source[-1] = 7

    def copy(part: slice) -> None:
        np.copyto(target[part], source[part])

    def copy_all() -> None:
        _in_threads(copy, size)
        assert target[-1] == 7

    return copy_all


@call("os.preadv of the file into memory that was touched before")
def read_file(setting: Setting) -> Callable[[], Any]:
    """Read the file with as many threads as our reads use."""
    size = os.path.getsize(setting.path)
    memory = _touched(size).data

    def read_all() -> None:
        fd = os.open(setting.path, os.O_RDONLY)
        try:

            def read(part: slice) -> None:
                assert os.preadv(fd, [memory[part]], part.start) == part.stop - part.start

            _in_threads(read, size)
        finally:
            os.close(fd)

    return read_all


def _write(setting: Setting, *, sync: bool) -> Callable[[], Any]:
    """Write a new file, its blocks reserved first, with one thread."""
    size = nbytes(setting.checkpoint, setting.scale)
    memory = _touched(size).data

    def write_all() -> None:
        fd = os.open(setting.target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.posix_fallocate(fd, 0, size)
            for part in _parts(size):
                assert os.pwrite(fd, memory[part], part.start) == part.stop - part.start
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    return write_all


@call("os.posix_fallocate and os.pwrite of as many bytes")
def write_file(setting: Setting) -> Callable[[], Any]:
    """Write a file that reaches the disk some time later."""
    return _write(setting, sync=False)


@call("os.posix_fallocate, os.pwrite of as many bytes, os.fsync")
def write_disk(setting: Setting) -> Callable[[], Any]:
    """Write a file and wait until it is on disk."""
    return _write(setting, sync=True)


@call("as many empty tensors of the same dtypes and shapes, in a dict, no garbage looked for")
def make_empty(setting: Setting) -> Callable[[], Any]:
    """Make tensors without content, as the framework does."""
    empty = handling(setting.framework).empty
    tensors = [
        (name, np.dtype(dtype).name, shape)
        for name, (dtype, shape) in shapes(setting.checkpoint, setting.scale).items()
    ]

    def make_all() -> dict[str, Any]:
        with collector.paused():
            return {name: empty(dtype, shape) for name, dtype, shape in tensors}

    return setting.finished(make_all)


@call("one copy_ of as many bytes from pinned memory to the device")
def copy_to_device(setting: Setting) -> Callable[[], Any]:
    """Copy pinned memory to a device with PyTorch."""
    import torch

    size = nbytes(setting.checkpoint, setting.scale)
    pinned = setting.device != "cpu"
    source = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
    target = torch.zeros(size, dtype=torch.uint8, device=setting.device)

    def copy() -> None:
        target.copy_(source, non_blocking=True)
        if pinned:
            torch.cuda.synchronize(setting.device)
        assert target[-1].item() == 1

    return copy


def _touched(size: int) -> Bytes:
    """Memory that starts at a page and that the kernel has provided, in huge pages if it can."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(pages, np.uint8)
    memory[:] = 1
    return memory


def _parts(size: int) -> Iterator[slice]:
    for start in range(0, size, _CHUNK):
        yield slice(start, min(size, start + _CHUNK))


def _in_threads(move: Callable[[slice], None], size: int) -> None:
    """Call something with each part of a range, in the threads that our own reads would use."""
    parts = _parts(size)
    count = worker_count()
    shares: list[list[slice]] = [[] for _ in range(count)]
    for part, share in zip(parts, itertools.cycle(shares), strict=False):
        share.append(part)

    def move_share(share: list[slice]) -> None:
        for part in share:
            move(part)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(move_share, shares))
