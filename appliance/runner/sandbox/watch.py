"""What a guard does while its worker runs, and after: it waits."""

import math
import os
import resource
import select
import socket
import time

from appliance.runner.sandbox import records
from appliance.runner.sandbox.leaving import Files, Leaving, cpu_seconds
from engines.spec import OFTEN

_SIGNAL_BYTES = 128  # struct signalfd_siginfo: one kind of signal is pending once at most


class Watch:
    """Reaps, reports the worker's end, keeps time. `until_the_end` returns only to end pid 1, and everything with it."""

    def __init__(self, status: int, signals: int, worker: int, leaving: Leaving) -> None:
        """Makes no system call. `signals` is a descriptor of SIGCHLD."""
        self._status = status
        self._signals = signals
        self._worker = worker  # 0 once its end is told: its number may then be another process's of the sandbox
        self._leaving = leaving
        self._spent_parked = 0.0
        self._ends_at = math.inf
        self._poll = select.poll()
        for fd in (signals, status, leaving.channel):
            self._poll.register(fd, select.POLLIN)

    def until_the_end(self) -> None:
        poll = self._poll
        handed_over = self._leaving.channel
        self._reap()
        while (left := self._ends_at - time.monotonic()) > 0:
            ready = dict(poll.poll(None if left == math.inf else left * 1000))
            # First, since it was sent first: what the worker spent before it isn't the run's, though the run may be over by now.
            if self._status in ready and not self._take_record():
                return
            if self._signals in ready:
                os.read(self._signals, _SIGNAL_BYTES)
                self._reap()
            if handed_over in ready:
                poll.unregister(handed_over)
                if self._leaving.take_over():
                    poll.register(self._leaving.listener, select.POLLIN)
                handed_over = -1
            if ready.get(self._leaving.listener, 0) & select.POLLIN:
                self._let_leave()
            elif self._leaving.listener in ready:  # nobody is left who could call
                poll.unregister(self._leaving.listener)

    def _let_leave(self) -> None:
        wait_status = self._leaving.status()
        if wait_status is not None and self._worker:
            self._tell_end(wait_status, self._leaving.spent())

    def _take_record(self) -> bool:
        """False at the end of the channel."""
        record = records.unpack(os.read(self._status, records.SIZE))
        if record is None or record.kind != records.TIME:
            return False
        self._ends_at = time.monotonic() + record.number / 1000
        if self._worker:
            self._spent_parked = self._spent_before(records.unpack_cost(record.payload))
        return True

    def _spent_before(self, told: records.Cost) -> float:
        """CPU time in seconds of the worker while it was parked, as the launcher read it before it gave the job away. By now the
        worker may be executing it: its clock says too much, and is read only where the launcher can't tell."""
        return cpu_seconds(self._worker) if told.cpu_us is None else told.cpu_us / 1e6

    def _reap(self) -> None:
        """Waits for all that have ended; reports the worker when it is among them."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker:
                self._tell_end(wait_status, 0.0)

    def _tell_end(self, wait_status: int, unreaped: float) -> None:
        """`unreaped`: CPU time in seconds of a worker that hasn't been waited for yet."""
        self._worker = 0
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        left = self._leaving.spent_by_others()
        spent_us = round((used.ru_utime + used.ru_stime + unreaped + left - self._spent_parked) * 1e6)
        cost = records.Cost(spent_us if spent_us > 0 else None)  # no run costs nothing: it was read too late
        os.write(self._status, records.pack(records.EXIT, wait_status, records.pack_cost(cost)))


def rehearse() -> None:
    """In the zygote, before it has a child: what a guard does once it is one. Leaves nothing behind but warm memory (see
    `engines.python.rehearsal`)."""
    for _ in range(OFTEN):
        _rehearse_once()


def _rehearse_once() -> None:
    launchers, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nothing, stat = os.open(os.devnull, os.O_RDONLY), os.open("/proc/self/stat", os.O_RDONLY)
    socket.send_fds(workers, [b"!"], [workers.fileno()])
    leaving = Leaving(ours.detach(), os.getpid(), Files(nothing, stat, ()))
    with status, workers:
        watch = Watch(status.fileno(), nothing, os.getpid(), leaving)
        with launchers:
            launchers.send(records.pack(records.TIME, 1000, records.pack_cost(records.Cost(1))))
            watch._tell_end(0, leaving.spent())
            launchers.recv(records.SIZE)
        watch.until_the_end()
    for fd in (nothing, stat, leaving.listener):
        os.close(fd)
