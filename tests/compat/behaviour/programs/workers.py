"""Read a file in worker processes: `workers.py START_METHOD FILE FRAMEWORK`.

Prints what the workers found, and the file of the `safetensors` that each used.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from typing import Any

import safetensors
from safetensors import safe_open

opened: dict[str, Any] = {}  # what a forked worker inherits


def total(job: tuple[str, str, str]) -> tuple[str, float, str]:
    """The sum of a tensor, by the handle of the parent where there is one."""
    path, framework, name = job
    file = opened.get(path) or safe_open(path, framework)
    return name, float(file.get_tensor(name).sum()), str(safetensors.__file__)


def main() -> None:
    method, path, framework = sys.argv[1:]
    file = safe_open(path, framework)
    if method == "fork":
        opened[path] = file
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(total, [(path, framework, name) for name in file.keys()])  # noqa: SIM118
    json.dump(
        {
            "sums": {name: result for name, result, _ in found},
            "workers": sorted({where for *_, where in found}),
            "parent": safetensors.__file__,
            # The handle of the parent goes on working.
            "after": float(file.get_tensor("1").sum()),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
