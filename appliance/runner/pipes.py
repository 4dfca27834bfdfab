"""The near ends of the pipes that a sandbox writes to."""

import os
import select
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import trio

_READ_BYTES = 64 << 10


class Pipes:
    """Read by one task, which is woken for all of them, within their block; leaving the block closes them.

    One task instead of one for each: a run is short, and a task costs more than what most runs say. It takes a descriptor more:
    raises OSError where there is none, and leaves them open.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = list(fds)
        self._open = set(fds)
        self._ready = select.epoll()
        self._has_just_read = False
        self._is_finished = False
        for fd in fds:
            os.set_blocking(fd, False)
            self._ready.register(fd, select.EPOLLIN)

    def __enter__(self) -> "Pipes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ready.close()
        for fd in self._fds:
            os.close(fd)

    def finish(self) -> None:
        """Who wrote to them has ended: what they hold is still read, and no more is waited for, whoever else could write."""
        self._is_finished = True
        trio.lowlevel.notify_closing(self._ready.fileno())

    async def read(self) -> list[tuple[int, bytes]]:
        """What has been written, by descriptor: of each at most 64 KiB, nothing at its end. An empty list when all have ended."""
        while self._open:
            ready = self._ready.poll(0)
            if ready or self._is_finished:
                if self._has_just_read:
                    await trio.lowlevel.checkpoint()
                self._has_just_read = True
                return self._take([fd for fd, _ in ready])
            self._has_just_read = False
            with suppress(trio.ClosedResourceError):  # woken by `finish`
                await trio.lowlevel.wait_readable(self._ready.fileno())
        return []

    def _take(self, ready: list[int]) -> list[tuple[int, bytes]]:
        """Where nothing is ready, all have ended."""
        found = [(fd, os.read(fd, _READ_BYTES)) for fd in ready] or [(fd, b"") for fd in sorted(self._open)]
        for fd, data in found:
            if not data:
                self._open.remove(fd)
                self._ready.unregister(fd)
        return found
