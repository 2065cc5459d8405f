"""The host in the place of a GPU: what loading and saving ask of Paddle, noted and done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import paddle
import pytest

from safetensors_paddle import devices, framework

__all__ = ["HostGpu"]


class _Event:
    """A copy, which ends when it is asked for the second time."""

    def __init__(self) -> None:
        self.asked = 0

    def query(self) -> bool:
        self.asked += 1
        return self.asked > 1


class HostGpu:
    """Stands in for ``gpu:0``: a place, and the queue of a device.

    Attributes:
        calls: What was asked for, in order.
        no_pins: What happens where memory is to be pinned: an error, or memory at no address.
        events: The copies, in order.
        moves: Whether another thread changes the queue while a copy is sent.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.no_pins: type[Exception] | Literal["nowhere"] | None = None
        self.events: list[_Event] = []
        self.moves = False
        self._queue = 1
        self._empty, self._copy_to = paddle.empty, paddle.Tensor._copy_to
        monkeypatch.setattr(framework, "find_place", self._find_place)
        monkeypatch.setattr(paddle, "empty", self._noted_empty)
        monkeypatch.setattr(paddle.device, "current_stream", self._current_stream)
        monkeypatch.setattr(paddle.device, "synchronize", self._synchronize)

        def copy_to(tensor: paddle.Tensor, place: Any, blocking: bool) -> paddle.Tensor:
            return self._noted_copy(tensor, place, blocking)

        monkeypatch.setattr(paddle.Tensor, "_copy_to", copy_to)

    def is_cpu_place(self) -> bool:
        return False

    def is_gpu_place(self) -> bool:
        return True

    def gpu_device_id(self) -> int:
        return 0

    def _record_event(self) -> _Event:
        self.calls.append("event")
        self.events.append(_Event())
        return self.events[-1]

    def _synchronize(self, device: str) -> None:
        assert device == "gpu:0"
        self.calls.append("synchronize")

    def _find_place(self, device: Any) -> Any:
        return self if device in ("gpu:0", self) else devices.find_place(device)

    def _current_stream(self, device: str) -> SimpleNamespace:
        assert device == "gpu:0"
        base = SimpleNamespace(cuda_stream=self._queue, record_event=self._record_event)
        self._queue += self.moves
        return SimpleNamespace(stream_base=base)

    def _noted_empty(self, shape: Any, dtype: Any, device: Any, pin_memory: bool = False) -> Any:
        if device is self:
            self.calls.append("pin" if pin_memory else f"block of {shape[0]}")
            if pin_memory and self.no_pins == "nowhere":
                return SimpleNamespace(data_ptr=lambda: 0)
            if pin_memory and self.no_pins is not None:
                raise self.no_pins("no more memory can be pinned")
            device = "cpu"
        return self._empty(shape, dtype=dtype, device=device)

    def _noted_copy(self, tensor: paddle.Tensor, place: Any, blocking: bool) -> paddle.Tensor:
        if place is self:
            self.calls.append(f"copy {tensor.size}")
            place = paddle.CPUPlace()
        return self._copy_to(tensor, place, blocking)
