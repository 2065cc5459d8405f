"""What loading costs in memory beside its result, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from safetensors_core import save_file

MIB = 1024 * 1024
TENSORS, NBYTES = 8, 32 * MIB
WINDOWS = 2 * 64 * MIB
SLACK = 24 * MIB  # stacks of threads, and what modules take that are imported meanwhile

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak"
)

# The peak of resident memory since a mark, pages of files included.
MEASURE = """
import re
import resource
import sys
import numpy as np
from safetensors_core import load_file, load_into, safe_open
path, probe, elements = sys.argv[1:]

def status(field):
    with open("/proc/self/status") as lines:
        return int(re.search(rf"^{field}:\\s+(\\d+) kB", lines.read(), re.MULTILINE)[1]) * 1024

load_file(probe, dtype="F16", backend="pread")
array = np.full(int(elements), 7, np.float32)
with open("/proc/self/clear_refs", "w") as marks:
    marks.write("5")
before = status("VmRSS")
ACTION
print(status("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tensors of 32 MiB."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tensors = {f"w{i}": np.full(NBYTES // 4, i, np.float32) for i in range(TENSORS)}
    save_file(tensors, path, fsync=False)
    return path


def peak(path: Path, action: str, elements: int = 1) -> int:
    """Bytes that some code takes at most."""
    probe = path.with_name("probe.safetensors")
    save_file({"w": np.ones(2, np.float32), "v": np.ones(2, np.float64)}, probe, fsync=False)
    program = MEASURE.replace("ACTION", action)
    command = [sys.executable, "-c", program, str(path), str(probe), str(elements)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_converting_while_loading_takes_the_result_and_two_windows(
    path: Path, backend: str
) -> None:
    action = f"""
loaded = load_file(path, dtype="F16", backend={backend!r})
assert [float(loaded[f"w{{i}}"][-1]) for i in range(8)] == list(map(float, range(8)))
"""
    taken = peak(path, action)
    result = TENSORS * NBYTES // 2
    assert result < taken < result + WINDOWS + SLACK


def test_filling_what_exists_takes_nothing(path: Path) -> None:
    action = """
parts = np.split(array, 8)
assert load_into({f"w{i}": part for i, part in enumerate(parts)}, path) == ([], [])
assert [float(part[-1]) for part in parts] == list(map(float, range(8)))
"""
    assert peak(path, action, TENSORS * NBYTES // 4) < SLACK


def test_filling_other_dtypes_takes_two_windows(path: Path) -> None:
    action = """
parts = np.split(array.view(np.float16), 8)
load_into({f"w{i}": part for i, part in enumerate(parts)}, path)
assert [float(part[-1]) for part in parts] == list(map(float, range(8)))
"""
    # What is converted exists twice for the time of a window.
    assert peak(path, action, TENSORS * NBYTES // 8) < 1.5 * WINDOWS + SLACK


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_going_through_a_file_takes_two_windows(path: Path, backend: str) -> None:
    action = f"""
total = 0.0
with safe_open(path, backend={backend!r}) as file:
    for name, array in file.iter_tensors(window="32MiB"):
        total += float(array[::1024].sum())
        array[:1024] = 0
        del array
assert total == 28 * 8192, total
"""
    assert peak(path, action) < 2 * NBYTES + NBYTES + SLACK


def test_a_file_larger_than_the_memory_that_is_allowed_can_be_gone_through(path: Path) -> None:
    action = f"""
limit = status("VmData") + {4 * NBYTES + 2 * SLACK}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
with safe_open(path, backend="pread") as file:
    names = [name for name, _ in file.iter_tensors(window="32MiB")]
assert len(names) == 8
try:
    load_file(path, backend="pread")
except (MemoryError, OSError):
    print("refused", file=sys.stderr)
else:
    raise AssertionError("the limit limits nothing")
"""
    peak(path, action)
