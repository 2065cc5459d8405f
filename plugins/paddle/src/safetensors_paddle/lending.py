"""Memory that is lent to Paddle, and let go of where no other thread can be in the way."""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from functools import partial
from typing import Any

__all__ = ["lend"]


class _Lease(weakref.ref):  # type: ignore[type-arg]
    """A reference to a borrower that knows what it borrows.

    Attributes:
        memory: What is to live longer than the borrower.
        notice: Another reference, which asks for `_return_memory` to be called.
    """

    __slots__ = ("memory", "notice")

    memory: Any
    notice: Any


_leases: dict[int, _Lease] = {}
_ended: deque[_Lease] = deque()


def lend(borrower: Any, memory: Any) -> None:
    """Keep memory alive until shortly after an array over it is gone.

    Paddle holds a lock while it lets go of an array, and takes the same lock, with the
    interpreter's in hand, while it imports one. To close a map, Python lets the interpreter go:
    if that happened under Paddle's lock, two threads would wait for each other for ever.

    What ends here is therefore only noted, by functions in C that keep the interpreter. The main
    thread is asked to let go of it as soon as it runs Python; the next loan does it too.

    Args:
        borrower: The array that Paddle imports, or one that those arrays keep alive.
        memory: What it lies over.

    Example:
        >>> import numpy as np
        >>> memory = bytearray(8)
        >>> lend(np.frombuffer(memory, np.uint8), memory)
        >>> memory.append(1)  # it is not borrowed any more
    """
    _return_memory()
    lease = _Lease(borrower, _ended.append)
    lease.memory = memory
    lease.notice = weakref.ref(borrower, _NOTIFY)
    _leases[id(lease)] = lease


def _return_memory(_: object = None) -> int:
    while _ended:
        try:
            lease = _ended.popleft()
        except IndexError:  # another thread was faster
            break
        del _leases[id(lease)]
    return 0


_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_ask_main_thread = ctypes.pythonapi.Py_AddPendingCall
_ask_main_thread.argtypes = [_CALL, ctypes.py_object]
_NOTIFY = partial(_ask_main_thread, _CALL(_return_memory))
