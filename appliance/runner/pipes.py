"""The near end of a pipe that a sandbox writes to."""

import os
from contextlib import suppress
from types import TracebackType

import trio

_READ_BYTES = 64 << 10


class Pipe:
    """Read by one task, within the block of the pipe; leaving the block closes it."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._is_finished = False

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)
        self._fd = -1

    def finish(self) -> None:
        """Who wrote to it has ended: what it holds is still read, and no more is waited for, whoever else could write."""
        self._is_finished = True
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)

    async def read(self) -> bytes:
        """What has been written, at most 64 KiB; nothing at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                if self._is_finished:
                    return b""
            with suppress(trio.ClosedResourceError):  # woken by `finish`
                await trio.lowlevel.wait_readable(self._fd)
