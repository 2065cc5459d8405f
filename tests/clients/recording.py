"""What a program of a client writes down: results that can be compared exactly, and seconds."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

# A short call is repeated more often, because its shortest time needs more luck.
FEWEST_REPEATS = 5
MOST_REPEATS = 100
SECONDS_OF_REPEATS = 0.25


def digest(value: Any) -> str:
    """The hash of a tensor, or of a mapping of tensors: names, dtypes, shapes and bytes."""
    running = hashlib.sha256()
    if isinstance(value, Mapping):
        for name in sorted(value):
            running.update(f"{name}={digest(value[name])};".encode())
    else:
        dtype, shape, data = _parts(value)
        running.update(f"{dtype}{list(shape)}".encode())
        running.update(data)
    return running.hexdigest()


def _parts(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        # NumPy has no bfloat16: torch's own view of bytes works for every dtype.
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return str(tensor.dtype), tuple(tensor.shape), flat.numpy().tobytes()
    array = np.asarray(tensor)
    return str(array.dtype), array.shape, array.tobytes()


class Recording:
    """Collects results by name and the seconds of what reads or writes weights."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.elsewhere: dict[str, str] = {}

    def result(self, name: str, value: Any) -> None:
        """Write down a value that JSON can hold; it must be the same on every run."""
        self.results[name] = value

    def timed(self, name: str, work: Callable[[], Result]) -> Result:
        """Do the work once to warm up and then several times; keep the shortest time."""
        result = work()
        durations: list[float] = []
        while len(durations) < FEWEST_REPEATS or (
            len(durations) < MOST_REPEATS and sum(durations) < SECONDS_OF_REPEATS
        ):
            del result
            begin = time.perf_counter()
            result = work()
            durations.append(time.perf_counter() - begin)
        self.seconds[name] = min(durations)
        return result

    def imported_elsewhere(self, process: str, file: str) -> None:
        """Write down which file another process imported as safetensors."""
        self.elsewhere[f"safetensors in {process}"] = file

    def finish(self) -> None:
        """Print everything as the last line, with the files that were imported as safetensors."""
        here = {
            name: str(getattr(module, "__file__", None))
            for name, module in sorted(sys.modules.items())
            if name.split(".")[0] == "safetensors"
        }
        record = {
            "results": self.results,
            "seconds": self.seconds,
            "implementation": {**here, **self.elsewhere},
        }
        sys.stdout.write(f"\n{json.dumps(record)}\n")
        sys.stdout.flush()
