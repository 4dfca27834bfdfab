"""System calls that the zygote prepares and its children make, one after the other.

A forked process copies each page of memory that it writes to, and to Python the reading of a name is a write: what makes a
sandbox out of a process, written as statements, copied 600 pages in guard and worker, a millisecond and a half. A list of calls
whose arguments are C's already, made by one loop that has run before, copies 60.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from appliance.runner.sandbox import syscalls
from appliance.runner.sandbox.syscalls import Call
from engines.spec import OFTEN


class Step(NamedTuple):
    """`name` is what the launcher is told when it fails, unless it may."""

    name: str
    function: Callable[..., int]
    arguments: tuple[Any, ...]
    may_fail: bool


class StepFailed(Exception):
    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name}: {os.strerror(number)}")
        self.name = name
        self.number = number


def steps(name: str, calls: Iterable[Call], *, may_fail: bool = False) -> list[Step]:
    return [Step(name, *call, may_fail) for call in calls]


def take(plan: Sequence[Step]) -> int:
    """Returns what the last call did. Raises `StepFailed` at the first that fails."""
    result = 0
    for name, function, arguments, may_fail in plan:
        result = function(*arguments)
        if result < 0 and not may_fail:
            raise StepFailed(name, ctypes.get_errno())
    return result


def rehearse() -> None:
    """Of nothing: what the loop writes to when it has run some times is shared by all who are forked later."""
    harmless = steps("", [syscalls.setting_umask(0o022)] * 3)
    for _ in range(OFTEN):
        take(harmless)
