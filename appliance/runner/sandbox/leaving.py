"""The end of a worker, known before the kernel has given its memory back.

THEORY OF OPERATION

A parent hears of its child's end when the child's memory has been given back, which takes 1 to 3 ms for an interpreter: as
long as the whole run of a small action. So an engine ends its worker by `engines.spec.leave`: exit_group(2) with a mark beside
the status. The worker's filter doesn't let that call through, but tells the guard, which holds the filter's listener
(seccomp_unotify(2)). The guard reports the status as the worker's end and leaves the call unanswered: the thread that made it
stays in it, and the launcher kills the sandbox when the run's answer has gone out. An engine whose runtime does more at its end
than to call exit_group, as node does, says the same by umask(2).

Nobody need believe the worker more than before: it is the kernel that tells pid 1 of the call, as it would of the end. Another
process of the sandbox that makes the same call is let through. Without the mark, by a signal, or on a kernel that has no such
listener, an end is what wait4(2) says.
"""

import errno
import fcntl
import os
import struct
import time
from contextlib import suppress
from typing import NamedTuple

from appliance.runner.sandbox import seccomp, seccomp_rules, syscalls
from appliance.runner.sandbox.steps import steps, take
from appliance.runner.sandbox.syscalls import Call

_RECEIVE, _SEND = seccomp_rules.NOTICE_REQUESTS
_NOTICE = struct.Struct("=QIIiIQ6Q")  # id, thread, flags; struct seccomp_data: number, architecture, address, arguments
_REPLY = struct.Struct("=QqiI")  # id, value, error, flags
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_TICKS = os.sysconf("SC_CLK_TCK")
_CHILDREN_BYTES = 4096  # some hundred pids: of a run that has more, the others' time is missing
_TELLS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_STATUS = 0xFF  # what exit_group(2) takes of its argument


def handing_over(channel: int, listener: int) -> list[Call]:
    """The worker's side: it keeps neither."""
    return [syscalls.Parcel(listener).sending(channel), syscalls.closing(listener), syscalls.closing(channel)]


class Files(NamedTuple):
    """Descriptors of what /proc tells of a worker; `children`: of it and of its guard, where the kernel tells that
    (CONFIG_PROC_CHILDREN)."""

    threads: int
    stat: int
    children: tuple[int, ...]

    @property
    def behind(self) -> int:
        """The descriptor that follows them, of those that `files_from` has counted."""
        return self.stat + 1 + len(self.children)


def opening_files(guard: int, worker: int) -> list[Call]:
    """Where the lowest free descriptors follow each other from `free` on, they are `files_from(free)`."""
    of_worker = f"/proc/{worker}"
    paths = [f"/proc/{guard}/task/{guard}/children", f"{of_worker}/task/{worker}/children"] if _TELLS_CHILDREN else []
    return [
        syscalls.opening(f"{of_worker}/task", os.O_PATH | os.O_CLOEXEC),
        *(syscalls.opening(path, os.O_RDONLY | os.O_CLOEXEC) for path in (f"{of_worker}/stat", *paths)),
    ]


def files_from(free: int) -> Files:
    return Files(free, free + 1, (free + 2, free + 3) if _TELLS_CHILDREN else ())


class Leaving:
    """The guard's side. `channel` can be read when the worker hands its listener over, or never will; `listener` when somebody
    makes the call: `status` then says what to think of it."""

    def __init__(self, channel: int, worker: int, files: Files) -> None:
        self.channel = channel
        self.listener = -1
        self._worker = worker
        self._threads, self._stat, self._children = files
        self._parcel = syscalls.Parcel()
        self._taking_over = steps("leaving", [self._parcel.receiving(channel), syscalls.closing(channel)])

    def take_over(self) -> bool:
        """False where the kernel has no listeners, or the worker ended before it could hand its own over."""
        take(self._taking_over)
        if self._parcel.received is not None:
            self.listener = self._parcel.received
        return self.listener != -1

    def status(self) -> int | None:
        """The worker's wait status, as of an exit; None when it wasn't the worker who called, or the caller is no more."""
        notice = bytearray(seccomp.NOTICE_BYTES)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, notice)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed, or has a signal to handle first
                return None
            raise
        number, thread, *_, status = _NOTICE.unpack(notice)[:7]
        if self._is_workers(thread):
            return (int(status) & _STATUS) << 8
        self._let_through(number)
        return None

    def _let_through(self, number: int) -> None:
        while True:
            with suppress(InterruptedError):  # by a child's end
                with suppress(FileNotFoundError):  # it has gone meanwhile
                    fcntl.ioctl(self.listener, _SEND, bytearray(_REPLY.pack(number, 0, 0, _CONTINUE)))
                return

    def spent(self) -> float:
        """CPU time in seconds of the worker, which waits in the call, and of the processes that it has waited for: the latter in
        the kernel's ticks."""
        fields = os.pread(self._stat, 1024, 0).rpartition(b")")[2].split()
        return cpu_seconds(self._worker) + (int(fields[13]) + int(fields[14])) / _TICKS

    def spent_by_others(self) -> float:
        """CPU time in seconds of what the worker has started and not waited for: the program of a compiled language, which has
        stopped itself, and what was left to the guard. 0 where the kernel doesn't tell children.
        """
        pids: set[int] = set()
        for fd in self._children:
            with suppress(OSError):  # it was the worker's, and has gone
                pids.update(map(int, os.pread(fd, _CHILDREN_BYTES, 0).rpartition(b" ")[0].split()))
        seconds = 0.0
        for pid in pids - {self._worker}:
            with suppress(OSError):  # it has gone meanwhile
                seconds += cpu_seconds(pid)
        return seconds

    def _is_workers(self, thread: int) -> bool:
        """While it waits in the call its number can't be another's."""
        try:
            os.stat(str(thread), dir_fd=self._threads)
        except FileNotFoundError:
            return False
        return True


def cpu_seconds(pid: int) -> float:
    """What a process has spent so far, by its clock: clock_getcpuclockid(3), which is this arithmetic."""
    return time.clock_gettime((~pid << 3) | 2)
