"""Mapped files: what of them is read, and how much at a time."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.tests.raw import RawFramework, RawTensor, file_bytes
from safetensors_core import Dtype, TensorInfo, safe_open
from safetensors_core.header import encode_header

RAW = RawFramework()
SIZES = {"t0": 9 << 20, "t1": 1, "t2": 8 << 20, "t3": 3 << 20}


class Maps:
    """What Linux says of the maps of a file."""

    def __init__(self, path: Path) -> None:
        self.resident, self.huge = 0, 0
        nbytes, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            name, *values = line.split()
            if span := re.fullmatch(r"([0-9a-f]+)-([0-9a-f]+)", name):
                inside = line.endswith(str(path))
                nbytes = int(span[2], 16) - int(span[1], 16)
            elif inside and name == "Rss:":
                self.resident += int(values[0]) * 1024
            elif inside and name == "VmFlags:" and "hg" in values:
                self.huge += nbytes


linux = pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps"), reason="the system does not say what is in memory"
)


@linux
def test_of_a_mapped_file_larger_than_memory_little_more_is_read_than_is_touched(
    tmp_path: Path,
) -> None:
    half, path = 1 << 35, tmp_path / "huge.safetensors"
    infos = {
        name: TensorInfo(Dtype.U8, (half,), (begin, begin + half))
        for name, begin in [("t", 0), ("u", half)]
    }
    path.write_bytes(encode_header(infos, None))
    os.truncate(path, path.stat().st_size + 2 * half)
    with safe_open(path, RAW, backend="mmap") as file:
        data = file.get_tensor("t").data
        everything = file.get_tensors()["u"].data
    assert (len(data), data[0], data[-1], everything[half // 2]) == (half, 0, 0, 0)
    assert 0 < Maps(path).resident < 1 << 27


@linux
@pytest.mark.skipif(
    not os.path.isdir("/sys/kernel/mm/transparent_hugepage"), reason="no huge pages in this kernel"
)
def test_large_tensors_that_are_about_to_be_used_are_read_in_huge_pages(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    tensors = {name: RawTensor(Dtype.U8, (size,), bytes(size)) for name, size in SIZES.items()}
    path.write_bytes(file_bytes(tensors))

    def huge(*names: str) -> int:
        with safe_open(path, RAW, backend="mmap") as file:
            tensors = file.get_tensors(names)
            file.get_slice("t2")[1:2]
            found = Maps(path)
        assert list(tensors) == list(names)
        return found.huge

    assert huge("t1") == huge("t3") == huge("t1", "t3") == huge() == 0
    assert 8 << 20 <= huge("t2") <= (8 << 20) + 2 * mmap.PAGESIZE
    assert huge(*SIZES) >= path.stat().st_size


@linux
def test_what_a_limit_keeps_from_being_mapped_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    nbytes = 1 << 34
    infos = {
        "large": TensorInfo(Dtype.U8, (nbytes,), (0, nbytes)),
        "small": TensorInfo(Dtype.U8, (3,), (nbytes, nbytes + 3)),
    }
    path.write_bytes(encode_header(infos, None))
    os.truncate(path, path.stat().st_size + nbytes + 3)
    program = f"""
import resource
from core.tests.raw import RawFramework
from safetensors_core import safe_open
resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
file = safe_open({str(path)!r}, RawFramework())
print(bytes(file.get_tensor("small").data))
try:
    file.get_tensor("large")
except MemoryError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{bytes(3)!r}\nthe system has no 17.2 GB of memory left\n"
