"""What the conversion of a checkpoint of many files costs in memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safetensors_core import load_file

# Of its own memory the process tells itself: what a parent is told counts its own, too.
PROGRAM = """
import sys
from safetensors_core.cli import main
status = main(["convert", *sys.argv[1:]])
print(open("/proc/self/status").read())
sys.exit(status)
"""
SHARDS = 4
TENSORS = 10  # of 32 MiB each: a shard is larger than Python and PyTorch together


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc here")
def test_peak_memory_stays_below_the_largest_shard(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weight_map = {}
    for shard in range(1, SHARDS + 1):
        name = f"pytorch_model-{shard:05}-of-{SHARDS:05}.bin"
        tensors = {
            f"{shard}.{i}": torch.full((1024, 8192), 10.0 * shard + i) for i in range(TENSORS)
        }
        torch.save(tensors, folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    largest = max(path.stat().st_size for path in folder.glob("*.bin"))

    program = [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path / "out")]
    done = subprocess.run(program, check=True, capture_output=True, text=True)

    [peak] = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, re.MULTILINE)
    assert int(peak) * 1024 < 1.2 * largest
    with_one = load_file(tmp_path / "out", "torch", keys="3.7")
    assert bool((with_one["3.7"] == 37.0).all())
