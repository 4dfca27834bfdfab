"""Threads at the limit of memory, where the process has one of its own (RLIMIT_DATA).

A thread whose stack there was memory for, and whose first steps there was none for, ends in them, and who started it waits for
them for ever (`threading.Thread.start`, all versions so far). So where that could come to be a thread is refused, in the words of
the interpreter for one that the kernel has refused.
"""

import ctypes
import resource
import threading
from collections.abc import Callable
from typing import Any

STACK = 1024 * 1024  # bytes: the default of 8 MiB a thread would count against the memory limit (RLIMIT_DATA)
_FIRST_STEPS = 256 * 1024  # bytes
_GUARD_PAGES = 64 * 1024  # at most: below a stack, and not counted
_M_ARENA_MAX = -8  # mallopt(3)
_set_of_malloc = ctypes.CDLL(None).mallopt
_STARTS = ("_start_new_thread", "_start_joinable_thread")  # until Python 3.12, and since


def refuse_stillborn() -> None:
    """From now on, for good; nothing where no such limit is set."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY:
        return
    # Else each thread makes an arena of its own, of 132 KiB and more, at a time of its choice.
    _set_of_malloc(_M_ARENA_MAX, 1)
    for name in _STARTS:
        if hasattr(threading, name):
            setattr(threading, name, _checked(getattr(threading, name), limit))


def _checked(start: Callable[..., Any], limit: int) -> Callable[..., Any]:
    def checked(*arguments: Any, **named: Any) -> Any:
        if _is_too_little(limit - _data_bytes()):
            raise RuntimeError("can't start new thread")
        return start(*arguments, **named)

    return checked


def _is_too_little(left: int) -> bool:
    """Beside a new stack, or with one that was kept of a thread that has ended. Between the two the kernel decides.

    An action's own `threading.stack_size` isn't known here: to ask for it is to set it back.
    """
    return left < _FIRST_STEPS or STACK - _GUARD_PAGES <= left < STACK + _FIRST_STEPS


def _data_bytes() -> int:
    """As the limit counts: proc_pid_status(5). That of statm has the main thread's stack in it, too. 0 where it can't be told."""
    try:
        with open("/proc/self/status") as status:
            _, _, behind = status.read().partition("VmData:")
    except OSError:  # of too many open files
        return 0
    return int(behind.split(maxsplit=1)[0]) * 1024
