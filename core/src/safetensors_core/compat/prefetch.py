"""Loading in the background: what `safe_open.prefetch` of the reference's 0.9 line gives."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, as_completed
from dataclasses import dataclass
from operator import index as as_integer
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from safetensors_core.compat.translation import reading
from safetensors_core.errors import SafetensorError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PrefetchLoader", "TensorMeta", "checked_plan"]


@dataclass(frozen=True)
class TensorMeta:
    """A tensor's entry in the header of a file.

    Attributes:
        dtype: The format's code of the element type.
        shape: Elements along each dimension.
        data_offsets: First byte of its data and the byte behind its last, from the beginning
            of the data section.

    Example:
        >>> TensorMeta("F32", [2, 3], (0, 24)).shape
        [2, 3]
    """

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class PrefetchLoader:
    """The tensors of one file, loading in the background, each handed out once.

    Made by `safe_open.prefetch`. It may be used from several threads. An error of a reader is
    raised where its tensor is taken. Loading stops when the loader is closed or dropped; when the
    main thread ends, what is still wanted is loaded where it is taken.

    Args:
        loads: What to load, by name, in the order of the file: a function that loads it.
        threads: How many are loaded at a time.

    Raises:
        SafetensorError: `threads` is not positive.

    Example:
        >>> with PrefetchLoader({"a": lambda: 1, "b": lambda: 2}, threads=1) as loader:
        ...     loader.take("b"), list(loader)
        (2, [('a', 1)])
    """

    def __init__(self, loads: Mapping[str, Callable[[], Any]], threads: int) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, _Job] = {}
        self._names = list(loads)
        if threads < 1:
            raise SafetensorError(f"prefetch needs at least one thread, got {threads}")
        self._waiting.update((name, (Future(), load)) for name, load in loads.items())
        jobs = deque(self._waiting.values())
        for number in range(min(threads, len(jobs))):
            # Not those of an executor, which would finish every load before the process may end.
            name = f"safetensors-prefetch-{number}"
            threading.Thread(target=_work, args=(jobs, threading.main_thread()), name=name).start()

    def __del__(self) -> None:
        self.close()

    def __len__(self) -> int:
        """How many tensors it hands out in all."""
        return len(self._names)

    def __enter__(self) -> Self:
        """The loader itself."""
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc_value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the loader."""
        self.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Names and tensors that nobody has taken yet, each as soon as it is there."""
        names = {future: name for name, (future, _) in list(self._waiting.items())}
        for future in as_completed(names):
            name = names.pop(future)
            del future  # and with it the tensor, before the next one is waited for
            job = self._withdraw(name)
            if job is not None:
                yield name, _result(job)
                del job

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def names(self) -> list[str]:
        """Names of the tensors it hands out, in the order of the file.

        Example:
            >>> PrefetchLoader({"a": lambda: 1}, threads=1).names()
            ['a']
        """
        return list(self._names)

    def take(self, name: str) -> Any:
        """Take a tensor, waiting for it if need be.

        Args:
            name: Its name.

        Raises:
            SafetensorError: It was taken before, is not in the plan, or cannot be loaded.

        Example:
            >>> PrefetchLoader({"a": lambda: 1}, threads=1).take("a")
            1
        """
        taken = self._withdraw(name)
        if taken is None:
            raise SafetensorError(
                f"tensor {name} was taken before, or the loader is closed"
                if name in self._names
                else f"tensor {name} is not in the plan of this loader"
            )
        return _result(taken)

    def close(self) -> None:
        """Stop loading and let go of what nobody took; what was taken stays valid.

        Example:
            >>> loader = PrefetchLoader({"a": lambda: 1}, threads=1)
            >>> loader.close()
        """
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            future.cancel()

    def _withdraw(self, name: str) -> _Job | None:
        """A load that is now the caller's alone; None if it was somebody else's before."""
        with self._lock:
            return self._waiting.pop(name, None)


_Job = tuple["Future[Any]", Callable[[], Any]]


def _work(jobs: deque[_Job], main: threading.Thread) -> None:
    """Load until nothing is left, or until the main thread has ended."""
    while jobs:
        try:
            future, load = jobs.popleft()
        except IndexError:  # another thread was faster
            return
        if not main.is_alive():
            future.cancel()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(load())
            except BaseException as error:  # noqa: BLE001  # raised where the tensor is taken
                future.set_exception(error)


def _result(job: _Job) -> Any:
    future, load = job
    with reading():
        try:
            return future.result()
        except CancelledError:  # the main thread ended before this load began
            return load()


def checked_plan(
    plan: Mapping[str, slice | None] | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, slice | None]:
    """A plan in the order of the file, of which every part can be loaded.

    Args:
        plan: Whole tensors (None) and slices of the first dimension; None for all, whole.
        shapes: Shapes of the file's tensors, in its order.

    Raises:
        SafetensorError: It names nothing or what is not there, or a slice is none of the
            tensor's rows.
        TypeError: The plan is no dict.

    Example:
        >>> checked_plan({"w": slice(0, 2)}, {"b": (3,), "w": (4, 3)})
        {'w': slice(0, 2, None)}
    """
    if plan is None:
        return dict.fromkeys(shapes)
    if not isinstance(plan, Mapping):
        raise TypeError(f"{type(plan).__name__!r} object is not an instance of 'dict'")
    if not plan:
        raise SafetensorError("prefetch plan selects no tensors")
    if not all(isinstance(name, str) for name in plan):
        raise SafetensorError("prefetch plan keys must be tensor names")
    for name, rows in plan.items():
        if name not in shapes:
            raise SafetensorError(f"File does not contain tensor {name}")
        if rows is not None:
            _check_rows(name, rows, shapes[name])
    return {name: plan[name] for name in shapes if name in plan}


def _check_rows(name: str, rows: object, shape: tuple[int, ...]) -> None:
    if not isinstance(rows, slice):
        raise SafetensorError(
            f"prefetch plan values must be None or a slice, got {type(rows)} for {name}"
        )
    if not shape:
        raise SafetensorError(f"cannot slice rows of the 0-d tensor {name}")
    for bound, kind in ((rows.start, "start"), (rows.stop, "stop")):
        if bound is None:
            continue
        try:
            number = as_integer(bound)
        except TypeError as error:
            raise SafetensorError(
                f"prefetch plan slice bounds for {name} must be integers or None"
            ) from error
        if not -shape[0] <= number <= shape[0]:
            raise SafetensorError(
                f"prefetch plan slice {kind} {number} for {name} is out of range for "
                f"{shape[0]} rows"
            )
    if rows.step not in (None, 1):
        raise SafetensorError(f"prefetch plan slices must have step 1, got {rows.step} for {name}")
