"""Threads that the end of the process does not wait for.

The standard library's pools are waited for, so that a server that does not answer would keep
Ctrl-C from ending a program.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Self

__all__ = ["Workers"]

A = TypeVar("A")
T = TypeVar("T")


class Workers(Generic[A, T]):
    """Threads that apply a function to arguments, in the order in which these come.

    At the end of its block, what has not begun is cancelled, and what runs is left alone.

    Args:
        function: What to do with one argument.
        count: How many threads there may be.

    Example:
        >>> with Workers(len, 2) as workers:
        ...     workers.submit("abc").result()
        3
    """

    def __init__(self, function: Callable[[A], T], count: int) -> None:
        self._function = function
        self._count = count
        self._threads: list[threading.Thread] = []
        self._waiting: SimpleQueue[tuple[Future[T], A] | None] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what has not begun, and leave what runs alone.

        Example:
            >>> workers = Workers(len, 2)
            >>> workers.close()
        """
        with contextlib.suppress(Empty):  # the threads may take the last one first
            while job := self._waiting.get_nowait():
                job[0].cancel()
        for _ in self._threads:
            self._waiting.put(None)

    def submit(self, argument: A) -> Future[T]:
        """Have the function applied to an argument.

        Args:
            argument: The argument.

        Returns:
            What the result or the error will be.
        """
        from concurrent.futures import Future

        future: Future[T] = Future()
        self._waiting.put((future, argument))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more
                if not self._threads:
                    self._waiting.put(None)
                    self._work()
            else:
                self._threads.append(thread)
        return future

    def map(self, arguments: Iterable[A]) -> Iterator[T]:
        """Have the function applied to several arguments.

        Args:
            arguments: The arguments.

        Yields:
            The results, in the order of the arguments.

        Example:
            >>> with Workers(len, 2) as workers:
            ...     list(workers.map(["a", "bcd"]))
            [1, 3]
        """
        for future in [self.submit(argument) for argument in arguments]:
            yield future.result()

    def ahead(self, arguments: Iterable[A], count: int) -> Iterator[Future[T]]:
        """Have the function applied to arguments that need not fit into memory together.

        Args:
            arguments: The arguments.
            count: How many results are made before they are asked for, at most.

        Yields:
            What each result or error is, in the order of the arguments.

        Example:
            >>> with Workers(len, 2) as workers:
            ...     [future.result() for future in workers.ahead(["a", "bcd"], count=1)]
            [1, 3]
        """
        waiting: deque[Future[T]] = deque()
        for argument in arguments:
            waiting.append(self.submit(argument))
            if len(waiting) > count:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            future, argument = job
            if future.set_running_or_notify_cancel():
                self._run(future, argument)
            del job, future, argument  # a thread that waits holds nothing

    def _run(self, future: Future[Any], argument: A) -> None:
        try:
            result = self._function(argument)
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)
            del future  # the error holds this frame, which must not hold the error
        else:
            future.set_result(result)
