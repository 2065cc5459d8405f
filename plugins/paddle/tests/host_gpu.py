"""The host in the place of a GPU: what loading and saving ask of Paddle, noted and done."""

from __future__ import annotations

from typing import Any

import paddle
import pytest

from safetensors_paddle import devices, dlpack, framework

__all__ = ["HostGpu"]


class _Event:
    """A copy, which has ended."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class HostGpu:
    """Stands in for ``gpu:0``: a place, and the queue of a device.

    Attributes:
        calls: What was asked for, in order.
        pins: Whether memory can be pinned.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.pins = True
        self.stream_base = self
        self._empty, self._copy_to = paddle.empty, paddle.Tensor._copy_to
        monkeypatch.setattr(dlpack, "_CUDA", 1)  # what DLPack calls the host
        monkeypatch.setattr(framework, "find_place", self._find_place)
        monkeypatch.setattr(paddle, "empty", self._noted_empty)
        monkeypatch.setattr(paddle.device, "current_stream", self._current_stream)

        def copy_to(tensor: paddle.Tensor, place: Any, blocking: bool) -> paddle.Tensor:
            return self._noted_copy(tensor, place, blocking)

        monkeypatch.setattr(paddle.Tensor, "_copy_to", copy_to)

    def is_cpu_place(self) -> bool:
        return False

    def is_gpu_place(self) -> bool:
        return True

    def record_event(self) -> _Event:
        self.calls.append("event")
        return _Event()

    def _find_place(self, device: Any) -> Any:
        return self if device in ("gpu:0", self) else devices.find_place(device)

    def _current_stream(self, device: str) -> HostGpu:
        assert device == "gpu:0"
        return self

    def _noted_empty(
        self, shape: Any, dtype: Any, device: Any, pin_memory: bool = False
    ) -> paddle.Tensor:
        if device is self:
            self.calls.append("pin" if pin_memory else f"block of {shape[0]}")
            if pin_memory and not self.pins:
                raise MemoryError("(ResourceExhausted) no more memory can be pinned")
            device = "cpu"
        return self._empty(shape, dtype=dtype, device=device)

    def _noted_copy(self, tensor: paddle.Tensor, place: Any, blocking: bool) -> paddle.Tensor:
        if place is self:
            self.calls.append(f"copy {tensor.size}")
            place = paddle.CPUPlace()
        return self._copy_to(tensor, place, blocking)
