"""Files that are opened, read and closed in any order: what was read stays right."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from safetensors_core import ClosedFileError, Dtype, Framework, safe_open, save_file
from safetensors_core.testing.observation import difference
from safetensors_core.testing.samples import bytes_of, data_of, make

SHAPES = {"a": (4, 8), "b": (3, 2, 8), "empty": (0, 8), "large": (40, 1024)}


def written(dtype: Dtype, name: str) -> bytes:
    """The bytes of a tensor; those of no two are alike."""
    return data_of(dtype, SHAPES[name], 4 * sorted(SHAPES).index(name))


class Files(RuleBasedStateMachine):
    """Files of the same tensors. `framework`, `dtype` and `path` are set by a subclass."""

    framework: Framework
    dtype: Dtype
    path: Path

    files = Bundle("files")
    closed = Bundle("closed")
    tensors = Bundle("tensors")

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Any, bytes]] = []

    def expected(self, name: str, rows: slice = slice(None)) -> bytes:
        data = written(self.dtype, name)
        count = SHAPES[name][0]
        row = len(data) // count if count else 0
        begin, end, _ = rows.indices(count)
        return data[begin * row : max(begin, end) * row]

    @rule(target=files, backend=st.sampled_from(["mmap", "pread"]))
    def open(self, backend: Any) -> Any:
        return safe_open(self.path, self.framework, self.framework.devices()[0], backend=backend)

    @rule(target=tensors, file=files, name=st.sampled_from(sorted(SHAPES)))
    def read(self, file: Any, name: str) -> Any:
        return file.get_tensor(name), self.expected(name)

    @rule(target=tensors, file=files)
    def read_all(self, file: Any) -> Any:
        return multiple(
            *((tensor, self.expected(name)) for name, tensor in file.get_tensors().items())
        )

    @rule(
        target=tensors,
        file=files,
        name=st.sampled_from(sorted(SHAPES)),
        begin=st.integers(0, 3),
        count=st.integers(0, 3),
    )
    def read_rows(self, file: Any, name: str, begin: int, count: int) -> Any:
        rows = slice(begin, begin + count)
        return file.get_slice(name)[rows], self.expected(name, rows)

    @rule(target=closed, file=consumes(files))
    def close(self, file: Any) -> Any:
        file.close()
        return file

    @rule(file=closed, name=st.sampled_from(sorted(SHAPES)))
    def read_after_close(self, file: Any, name: str) -> None:
        with pytest.raises(ClosedFileError):
            file.get_tensor(name)

    @rule(found=tensors)
    def keep(self, found: Any) -> None:
        self.kept.append(found)

    @rule(found=consumes(tensors))
    def release(self, found: Any) -> None:
        del found
        gc.collect()

    @rule(found=tensors)
    def look_at(self, found: Any) -> None:
        tensor, data = found
        self.check(tensor, data)

    @invariant()
    def what_is_kept_stays_as_it_is(self) -> None:
        for tensor, data in self.kept[-3:]:
            self.check(tensor, data)

    def check(self, tensor: Any, data: bytes) -> None:
        changed = difference(bytes_of(self.framework, tensor), data)
        assert not changed, "a tensor changed after it was read"


def test_files_can_be_opened_read_and_closed_in_any_order(
    framework: Framework, some_dtype: Dtype
) -> None:
    widest = max(some_dtype, *framework.dtypes, key=lambda dtype: dtype.bits)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tensors = {
            name: make(framework, widest, shape, bytearray(written(widest, name)))
            for name, shape in SHAPES.items()
        }
        save_file(tensors, path)
        members = {"framework": framework, "dtype": widest, "path": path}
        run_state_machine_as_test(
            type("FilesOfOneFramework", (Files,), members),
            settings=settings(max_examples=30, stateful_step_count=25),
        )
