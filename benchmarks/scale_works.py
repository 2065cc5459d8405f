"""What is timed at every scale: by ours and by the reference, in files of any count and size.

Run as a program, it takes one sample in a fresh process and prints it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.memory import measure_peak

__all__ = ["WORKS", "Axis", "Side", "Work", "main", "path_of", "take_sample", "write_file"]

Axis = Literal["tensors", "GB"]
Side = Literal["ours", "reference"]
Prepare = Callable[[str, str], Callable[[], Any]]  # file to read, file to write

_SMALLEST: dict[Axis, int] = {"tensors": 10, "GB": 1}
_LARGE_COUNT, _COLUMNS = 16, 4096  # tensors in a file of a size, and F32 in a row of each
_ROWS = 256  # of a slice: 4 MiB, whatever the file's size


@dataclass(frozen=True)
class Work:
    """Something to do with a file, which may cost more the more is in the file.

    Attributes:
        name: As the table and the plot call it.
        axis: What grows: the count of tiny tensors, or the size of a file of few large ones.
        says: The call as a user writes it.
        ours: Imports and makes what our call needs, and returns the call.
        reference: The same for the reference; where it has no such thing, why not.
        value: What both sides must agree on.
    """

    name: str
    axis: Axis
    says: str
    ours: Prepare
    reference: Prepare | str
    value: Callable[[Any], object]

    def prepare(self, side: Side) -> Prepare:
        """The call of a side, which must have one."""
        if side == "ours":
            return self.ours
        assert not isinstance(self.reference, str)
        return self.reference


def path_of(folder: str, axis: Axis, size: int) -> str:
    """Where `write_file` puts a file."""
    return os.path.join(folder, f"{size}-{axis}.safetensors")


def write_file(folder: str, axis: Axis, size: int) -> None:
    """Write a file of `size` tensors, or a sparse one of `size` GB, unless it exists.

    Args:
        folder: Where.
        axis: What `size` counts.
        size: Tensors of two F32 each, or 10^9 bytes of zeros in few tensors.
    """
    import numpy as np

    from safetensors_core import Dtype, TensorInfo
    from safetensors_core.header import encode_header

    path = path_of(folder, axis, size)
    if os.path.exists(path):
        return
    if axis == "tensors":
        infos = {f"t{i}": TensorInfo(Dtype.F32, (2,), (8 * i, 8 * i + 8)) for i in range(size)}
        data = np.arange(2 * size, dtype="<f4").tobytes()
    else:
        rows = size * 10**9 // (_LARGE_COUNT * _COLUMNS * 4)
        nbytes = rows * _COLUMNS * 4
        infos = {
            f"w{i:02}": TensorInfo(Dtype.F32, (rows, _COLUMNS), (nbytes * i, nbytes * (i + 1)))
            for i in range(_LARGE_COUNT)
        }
        data = b""
    beginning = encode_header(infos, None)
    with open(path, "wb") as file:
        file.write(beginning)
        file.write(data)
        file.truncate(len(beginning) + next(reversed(infos.values())).data_offsets[1])


def take_sample(work: Work, side: Side, size: int, folder: str) -> dict[str, Any]:
    """Do a work once.

    Args:
        work: What to do.
        side: Who does it.
        size: On which file; it and the smallest of its axis are in `folder`.
        folder: Where a file may be written, too.

    Returns:
        ``"seconds"``; ``"bytes"``, the peak of extra anonymous memory; ``"value"``.
    """
    target = os.path.join(folder, f"saved-{os.getpid()}.safetensors")
    prepare = work.prepare(side)
    # Imports and the search for plugins do not depend on what is in a file.
    smallest = path_of(folder, work.axis, _SMALLEST[work.axis])
    prepare(smallest, target)()
    call = prepare(path_of(folder, work.axis, size), target)
    seconds = 0.0

    def timed() -> Any:
        nonlocal seconds
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        return result

    gc.collect()
    result, peak = measure_peak(timed)
    if result is None and os.path.exists(target):
        result = zlib.crc32(Path(target).read_bytes())
    value = work.value(result)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    return {"seconds": seconds, "bytes": peak["anon"], "value": repr(value)}


def _names(path: str) -> list[str]:
    import safetensors_core

    return list(safetensors_core.read_header(path).tensors)


def _read_header(path: str, _target: str) -> Callable[[], Any]:
    from safetensors_core import read_header

    return lambda: read_header(path).tensors


def _reference_header(path: str, _target: str) -> Callable[[], Any]:
    from safetensors import safe_open

    def read() -> Any:
        with safe_open(path, "numpy") as file:
            return file.keys()

    return read


def _open(path: str, _target: str) -> Callable[[], Any]:
    from safetensors_core import safe_open

    def read() -> Any:
        with safe_open(path, "numpy") as file:
            return file.keys()

    return read


def _load(module: str) -> Prepare:
    def prepare(path: str, _target: str) -> Callable[[], Any]:
        from importlib import import_module

        load_file = import_module(module).load_file
        return lambda: load_file(path)

    return prepare


def _save(module: str, **options: Any) -> Prepare:
    def prepare(path: str, target: str) -> Callable[[], Any]:
        from importlib import import_module

        import numpy as np

        save_file = import_module(module).save_file
        arrays: Iterable[Any] = (np.full(2, i, np.float32) for i in range(len(_names(path))))
        if "torch" in module:
            import torch

            arrays = map(torch.from_numpy, arrays)
        tensors = {f"t{i}": array for i, array in enumerate(arrays)}
        return lambda: save_file(tensors, target, **options)

    return prepare


def _one(package: str, framework: str) -> Prepare:
    def prepare(path: str, _target: str) -> Callable[[], Any]:
        from importlib import import_module

        safe_open = import_module(package).safe_open
        names = _names(path)
        name = names[len(names) // 2]

        def get() -> Any:
            with safe_open(path, framework) as file:
                return file.get_tensor(name)

        return get

    return prepare


def _slice(package: str, framework: str) -> Prepare:
    def prepare(path: str, _target: str) -> Callable[[], Any]:
        from importlib import import_module

        safe_open = import_module(package).safe_open
        name = _names(path)[-1]

        def get() -> Any:
            with safe_open(path, framework) as file:
                return file.get_slice(name)[-_ROWS:].sum()

        return get

    return prepare


def _iterate(path: str, _target: str) -> Callable[[], Any]:
    from safetensors_core import safe_open

    def read() -> Any:
        with safe_open(path, "numpy") as file:
            return dict(file.iter_tensors(window="1MB"))

    return read


def _chosen(path: str, _target: str) -> Callable[[], Any]:
    from safetensors_core import load_file

    names = _names(path)
    return lambda: load_file(path, keys=names)


def _command(name: str) -> Prepare:
    def prepare(path: str, _target: str) -> Callable[[], Any]:
        from safetensors_core.cli import main as run

        def run_quietly() -> Any:
            with _standard_output_to(os.devnull):
                status = run([name, path, *([path] if name == "diff" else [])])
            if status:
                raise RuntimeError(f"{name} ended with exit status {status}")

        return run_quietly

    return prepare


@contextlib.contextmanager
def _standard_output_to(path: str) -> Iterator[None]:
    kept = os.dup(1)
    fd = os.open(path, os.O_WRONLY)
    os.dup2(fd, 1)
    os.close(fd)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _last(tensors: Any) -> object:
    """How many there are, and what the last by name is."""
    name = max(tensors)  # the sides have orders of their own
    last = tensors[name]
    return len(tensors), name, str(last.dtype).rpartition(".")[2], tuple(last.shape)


def _content(tensor: Any) -> object:
    return tensor.tolist() if tensor.ndim < 2 else tuple(tensor.shape)


_NO_COMMAND = "it has no such command"
_READS_ALL = "it reads the whole file"

#: Every work, in the order of the table.
WORKS = [
    Work("header", "tensors", "read_header(path)", _read_header, _reference_header, len),
    Work("keys", "tensors", "safe_open(path).keys()", _open, _reference_header, len),
    Work(
        "get one",
        "tensors",
        "safe_open(path).get_tensor(name)",
        _one("safetensors_core", "numpy"),
        _one("safetensors", "numpy"),
        _content,
    ),
    Work(
        "load numpy",
        "tensors",
        "load_file(path)",
        _load("safetensors_numpy"),
        _load("safetensors.numpy"),
        _last,
    ),
    Work(
        "load torch",
        "tensors",
        "load_file(path)",
        _load("safetensors_torch"),
        _load("safetensors.torch"),
        _last,
    ),
    Work(
        "load by name",
        "tensors",
        "load_file(path, keys=names)",
        _chosen,
        "it has no such option",
        _last,
    ),
    Work(
        "iterate",
        "tensors",
        'safe_open(path).iter_tensors(window="1MB")',
        _iterate,
        "it has no such method",
        _last,
    ),
    Work(
        "save numpy",
        "tensors",
        "save_file(tensors, path, fsync=False)",
        _save("safetensors_numpy", fsync=False),
        _save("safetensors.numpy"),
        int,
    ),
    Work(
        "save torch",
        "tensors",
        "save_file(tensors, path, fsync=False)",
        _save("safetensors_torch", fsync=False),
        _save("safetensors.torch"),
        int,
    ),
    Work("inspect", "tensors", "safetensors-core inspect", _command("inspect"), _NO_COMMAND, repr),
    Work("verify", "tensors", "safetensors-core verify", _command("verify"), _NO_COMMAND, repr),
    Work("diff", "tensors", "safetensors-core diff", _command("diff"), _NO_COMMAND, repr),
    Work("open", "GB", "safe_open(path).keys()", _open, _reference_header, len),
    Work("load numpy", "GB", "load_file(path)", _load("safetensors_numpy"), _READS_ALL, _last),
    Work(
        "load torch",
        "GB",
        "load_file(path)",
        _load("safetensors_torch"),
        _load("safetensors.torch"),
        _last,
    ),
    Work(
        "get one",
        "GB",
        "safe_open(path).get_tensor(name)",
        _one("safetensors_core", "torch"),
        _one("safetensors", "torch"),
        _content,
    ),
    Work(
        "slice",
        "GB",
        f"safe_open(path).get_slice(name)[-{_ROWS}:].sum()",
        _slice("safetensors_core", "torch"),
        _slice("safetensors", "torch"),
        float,
    ),
]


def main(arguments: list[str]) -> None:
    """Take the sample that the arguments ask for and print it as JSON.

    Args:
        arguments: Axis, name of the work, side, size, folder.
    """
    axis, name, side, size, folder = arguments
    work = next(work for work in WORKS if (work.axis, work.name) == (axis, name))
    assert side in {"ours", "reference"}
    sample = take_sample(work, "ours" if side == "ours" else "reference", int(size), folder)
    print(json.dumps(sample))


if __name__ == "__main__":
    main(sys.argv[1:])
