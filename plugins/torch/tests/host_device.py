"""The host in the place of a CUDA device: what `CudaAccelerator` asks of torch, noted and done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

__all__ = ["HostCuda"]


class _Event:
    """A copy, which has ended."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class _Stream:
    """A queue that notes who waits for it."""

    def __init__(self, cuda: HostCuda, name: str) -> None:
        self.device = torch.device("cpu")
        self.name = name
        self._cuda = cuda

    def wait_stream(self, other: _Stream) -> None:
        self._cuda.calls.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> _Event:
        self._cuda.calls.append(f"event on {self.name}")
        return _Event()


class HostCuda:
    """Stands in for `torch.cuda` as far as loading and saving use it.

    Attributes:
        calls: What was asked for, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._program = _Stream(self, "program")
        self._current = [self._program]
        monkeypatch.setattr(torch.cuda, "current_stream", self._current_stream)
        monkeypatch.setattr(torch.cuda, "Stream", self._new_stream)
        monkeypatch.setattr(torch.cuda, "stream", self._stream)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.Tensor, "record_stream", self._record_stream)
        self._empty = torch.empty
        monkeypatch.setattr(torch, "empty", self._noted_empty)
        self.pins = True

    def _current_stream(self, device: torch.device) -> _Stream:
        del device
        return self._current[-1]

    def _new_stream(self, device: torch.device) -> _Stream:
        del device
        return _Stream(self, "own")

    @contextlib.contextmanager
    def _stream(self, stream: _Stream) -> Iterator[None]:
        self._current.append(stream)
        yield
        self._current.pop()

    def _record_stream(self, stream: _Stream) -> None:
        self.calls.append(f"memory is used on {stream.name}")

    def _noted_empty(self, *size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory:
            self.calls.append("pin")
            if not self.pins:
                raise RuntimeError("CUDA error: out of memory")
        elif self._current[-1] is not self._program or len(self._current) > 1:
            self.calls.append(f"block of {self._current[-1].name}")
        return self._empty(*size, **options)
