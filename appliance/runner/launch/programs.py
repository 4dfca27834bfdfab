"""Compiled programs that are started before their next call, each in a sandbox that is for nothing else.

A program that waits at its gate has executed nothing of its author's. It serves the same program with the same limits only,
since it was started with those.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import trio

from appliance.runner.launch.processors import Processors
from appliance.runner.launch.sandboxes import Sandbox

_LATELY_SECONDS = 60.0  # what isn't called again within these isn't started ahead, and what was is given up
_SHORTLY_SECONDS = 1.0  # one that is called again within these may be before the next has been started: it gets two
_REMEMBERED = 256


class Program(NamedTuple):
    """What a claim brings: a descriptor, and the limits to start it with."""

    descriptor: int
    memory_bytes: int
    cpu_percent: int
    tasks: int


class _Key(NamedTuple):
    """Of an open file, as each `_Started` has it: `device` and `inode` are no other's then. Where a kernel counts the inodes of
    memory files in 32 bits, and from the beginning again, size and time tell them apart."""

    device: int
    inode: int
    size: int
    changed_ns: int
    memory_bytes: int
    cpu_percent: int
    tasks: int


class _Started(NamedTuple):
    sandbox: Sandbox
    program: int


class Programs:
    """At most `most` sandboxes; `pop` gives a parked one, or none."""

    def __init__(self, most: int, pop: Callable[[], Sandbox | None], processors: Processors) -> None:
        self._most = most
        self._pop = pop
        self._processors = processors
        self._started: dict[_Key, list[_Started]] = {}
        self._called: OrderedDict[_Key, float] = OrderedDict()  # when last, the latest at the end

    def take(self, program: Program) -> Sandbox | None:
        """One that is alive, in which this program waits."""
        key = _key_of(program)
        while started := self._started.get(key):
            sandbox = self._remove(key, started[0])
            if sandbox.is_alive():
                return sandbox
        return None

    def start_next(self, program: Program) -> None:
        """To be called when a run of it is over. Starts it anew if it seems to be called again."""
        key, now = _key_of(program), trio.current_time()
        since = now - self._called.pop(key, -math.inf)
        self._called[key] = now
        if len(self._called) > _REMEMBERED:
            self._called.popitem(last=False)
        wanted = 0 if since > _LATELY_SECONDS else 1 if since > _SHORTLY_SECONDS else 2
        if len(self._started.get(key, ())) < wanted and sum(map(len, self._started.values())) < self._most:
            self._start(key, program)

    def _start(self, key: _Key, program: Program) -> None:
        try:
            kept = os.dup(program.descriptor)
        except OSError:  # too many open files
            return
        if (sandbox := self._pop()) is None:  # those that call now have none to spare
            os.close(kept)
            return
        # It may use as many as it is started on; those that are the least busy when it runs are chosen then.
        sandbox.use(self._processors.next(program.cpu_percent))
        sandbox.give(program.descriptor, program.memory_bytes, program.tasks)
        self._started.setdefault(key, []).append(_Started(sandbox, kept))

    def retire(self, is_old: Callable[[Sandbox], bool]) -> None:
        """Ends those that are old, and those whose program hasn't been called lately."""
        now = trio.current_time()
        for key, started in list(self._started.items()):
            is_forgotten = now - self._called.get(key, 0.0) > _LATELY_SECONDS
            for one in list(started):
                if is_forgotten or is_old(one.sandbox):
                    self._remove(key, one).kill()

    def _remove(self, key: _Key, one: _Started) -> Sandbox:
        started = self._started[key]
        started.remove(one)
        if not started:
            del self._started[key]
        os.close(one.program)
        return one.sandbox


def _key_of(program: Program) -> _Key:
    file = os.fstat(program.descriptor)
    return _Key(
        file.st_dev, file.st_ino, file.st_size, file.st_ctime_ns, program.memory_bytes, program.cpu_percent, program.tasks
    )
