"""The installed command, and files to give it."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors_core import Dtype, TensorInfo
from safetensors_core.header import encode_header

COMMAND = str(Path(sysconfig.get_path("scripts")) / "safetensors-core")


def write_file(path: Path, names: Iterable[str], metadata: Mapping[str, str] | None = None) -> Path:
    """A file of F16 tensors of shape [2, 3] that are zero."""
    infos = {
        name: TensorInfo(Dtype.F16, (2, 3), (12 * i, 12 * i + 12)) for i, name in enumerate(names)
    }
    path.write_bytes(encode_header(infos, metadata) + bytes(12 * len(infos)))
    return path


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    defaults: dict[str, Any] = {"capture_output": True, "encoding": "utf-8"}
    options = {**defaults, **options}
    return subprocess.run([COMMAND, *map(str, arguments)], check=False, **options)
