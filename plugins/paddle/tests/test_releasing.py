"""Releasing tensors: in any order and from any thread, and their memory goes with the last."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import paddle
import pytest

from safetensors_core import safe_open
from safetensors_paddle import load_file, save_file

SIZE = 200_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one tensor."""
    save_file({"a": paddle.arange(SIZE, dtype="float32")}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its maps")
def test_memory_goes_with_the_last_tensor_in_whatever_thread_it_is_released(path: Path) -> None:
    tensors = [load_file(path, backend="mmap")]
    thread = threading.Thread(target=tensors.clear)
    thread.start()
    thread.join(60)
    assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its maps")
@pytest.mark.parametrize("order", [(0, 0, 0, 0), (3, 2, 1, 0), (1, 2, 0, 0)])
def test_tensors_over_one_address_can_be_released_in_any_order(
    path: Path, order: tuple[int, ...]
) -> None:
    # Paddle's own `frombuffer` ends the process here, and its DLPack forgets to release some.
    with safe_open(path, "paddle", backend="mmap") as file:
        tensors = [file.get_tensor("a") for _ in order]
    for index in order:
        assert tensors[0][-1].item() == SIZE - 1
        del tensors[index]
        gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


# Each runs in a process of its own, because nothing ends threads that wait for each other.
ENDLESS = {
    # Paddle's DLPack holds a lock while it releases what it borrows, and takes it to release.
    "what borrows from a tensor outlives it": """
loaded = load_file(path)
borrowers = [paddle.from_dlpack(tensor) for tensor in loaded.values()]
del loaded
del borrowers
""",
    "tensors are released while others are loaded": """
def load(_):
    return len(load_file(path))
def release(_):
    for tensor in load_file(path).values():
        tensor.cast_("float64")
    return 0
with ThreadPoolExecutor(4) as pool:
    jobs = [pool.submit(load if i % 2 else release, i) for i in range(40)]
    assert sum(job.result() for job in jobs) == 20 * 2000
""",
    "maps end while arrays are taken in": """
with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda _: len(load_file(path, backend="mmap")), range(60))) == [2000] * 60
""",
    "buffers end while arrays are taken in": """
with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda _: len(load_file(path, backend="pread")), range(60))) == [2000] * 60
""",
    "tensors live until the process ends": """
loaded = load_file(path)
kept = [paddle.from_dlpack(tensor) for tensor in loaded.values()]
""",
}


@pytest.mark.parametrize("case", ENDLESS)
def test_releasing_tensors_waits_for_nothing(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"t{i}": paddle.full([8], i) for i in range(2000)}, path)
    program = (
        "import sys, paddle\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from safetensors_paddle import load_file\n"
        "path = sys.argv[1]\n"
    )
    command = [sys.executable, "-c", program + ENDLESS[case], str(path)]
    subprocess.run(command, check=True, timeout=120)
