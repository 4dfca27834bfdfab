"""One sandbox: a guard that is pid 1 of its own pid namespace, and a worker, its only child, which executes one job.

THEORY OF OPERATION

`become_sandbox` runs in a process just forked by the zygote, the first in a new pid namespace, with all of the zygote's
rights. It takes its descriptors into fixed places and closes every other, makes its own mount, ipc and uts (and, for a run
without network, net) namespaces, mounts its own /tmp, /dev/shm, /run and /proc, then waits for the launcher to say go: until
then nothing of a tenant's has been read, so that the launcher can put the process wherever its limits are.

After go the guard takes a cgroup namespace, whose root is where the launcher has put it, forks the worker, and both give up
their identity for good: the worker takes the slot's uid, the guard another one, so that the worker can neither signal nor
trace its guard. Where the maker isn't root there is one uid only; both then live in a user namespace of the sandbox's own.

The worker waits for its job on the job channel. When it ends (or is about to: `leaving`), the guard reports its wait status on
the status channel and stays, reaping, until the launcher kills it: the end of pid 1 ends every process of the namespace,
whatever it has done to escape (double fork, setsid, ignored signals). The guard ends by itself when the launcher has gone (end
of file on the status channel) and when its timer runs out, which is the backstop for a launcher that is stuck.
"""

import gc
import math
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from appliance.runner.sandbox import records, syscalls
from appliance.runner.sandbox.leaving import Leaving, cpu_seconds, hand_over
from appliance.runner.sandbox.walls import Walls
from engines.spec import Confine, Place, leave

Work = Callable[[Place], int]
"""Executes one job; returns the worker's exit status."""

_STATUS, _JOB, _ANSWERS, _STDOUT, _STDERR, _PROGRAM = range(3, 9)
_ASIDE = 100  # above all that a zygote ever has open
_TMP = "mode=1777,size=64m,nr_inodes=16384"
_OPEN_FILES = 1024
_NOBODY_INSIDE = 1000  # the uid that a sandbox sees where the maker isn't root


class Identity(NamedTuple):
    """The worker's and the guard's uid; None when the maker isn't root, and a user namespace stands for them."""

    worker: int
    guard: int


class Plan(NamedTuple):
    """`fds`: the near ends of status, job, answers, stdout, stderr, in this order, and for a compiled language that of the
    socket which its program comes through. `network`: the namespace to join; without one, `with_network` says whether the host's
    network stays or an empty one is made. `room`, `confine` and `in_scope`: see `Place`."""

    fds: tuple[int, ...]
    identity: Identity | None
    with_network: bool
    network: int | None
    walls: Walls
    room: int
    confine: Confine
    in_scope: bool


def become_sandbox(plan: Plan, work: Work) -> NoReturn:
    """Never returns, never raises: whatever fails is told to the launcher as a FAILED record, and ends the process."""
    step = "descriptors"
    try:
        status = _take_descriptors(plan.fds, plan.network)
        if plan.network is not None:
            step = "network"
            _join_network(_STATUS + len(plan.fds))
        step = "namespaces"
        _make_namespaces(plan.with_network)
        step = "mounts"
        zygotes_proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)  # the sandbox's own has no sysctls
        _make_mounts(plan.identity)
        step = "go"
        _await_go(status)
        step = "cgroup namespace"
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)  # made before it is in its scope, it would show the way out
        step = "user namespace"
        if plan.identity is None:
            _enter_user_namespace(zygotes_proc)
        os.close(zygotes_proc)
        step = "fork"
        ours, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker = os.fork()
        if worker == 0:
            ours.close()
            _run_worker(plan, work, workers)
        workers.close()
        leaving = Leaving(ours, worker)
        step = "identity"
        _drop(plan.identity.guard if plan.identity else None)
        syscalls.set_dumpable(False)  # where worker and guard have one uid: no /proc/1/mem, no ptrace
        os.closerange(_JOB, _STATUS + len(plan.fds))
        gc.disable()
        watch = _Watch(status, worker, leaving)
        step = "filter"
        plan.walls.confine_guard()
        step = "watch"
        status.send(records.pack(records.PARKED))
        watch.until_the_end()
    except BaseException as error:  # noqa: BLE001 - the process ends here, and the launcher is told
        number = error.errno if isinstance(error, OSError) and error.errno else 0
        # Descriptor 3 is the status channel as soon as the first step is over; before that nobody can be told.
        with socket.socket(fileno=_STATUS) as channel:
            channel.send(records.pack(records.FAILED, number, step.encode()))
    finally:
        os._exit(1)


def _take_descriptors(channels: tuple[int, ...], network: int | None) -> socket.socket:
    """Puts the channels from 3 on, behind them the network to join, /dev/null at 0–2, and closes all else."""
    fds = channels if network is None else (*channels, network)
    aside = [os.dup2(fd, _ASIDE + index) for index, fd in enumerate(fds)]  # out of the way of the places they go to
    for index, fd in enumerate(aside):
        os.dup2(fd, _STATUS + index, inheritable=False)
    null = os.open("/dev/null", os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.closerange(_STATUS + len(fds), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return socket.socket(fileno=_STATUS)


def _join_network(fd: int) -> None:
    syscalls.setns(fd, syscalls.CLONE_NEWNET)
    os.close(fd)


def _make_namespaces(with_network: bool) -> None:
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    syscalls.unshare(flags if with_network else flags | syscalls.CLONE_NEWNET)
    socket.sethostname("action")


def _make_mounts(identity: Identity | None) -> None:
    plain = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/tmp", "tmpfs", plain, _TMP)
    syscalls.mount("tmpfs", "/dev/shm", "tmpfs", plain, _TMP)
    syscalls.mount("tmpfs", "/run", "tmpfs", plain | syscalls.MS_NOEXEC, "mode=755,size=16k,nr_inodes=8")
    uid = identity.worker if identity else _NOBODY_INSIDE
    _write("/run/passwd", f"action:x:{uid}:{uid}::/tmp:/bin/sh\n")
    _write("/run/group", f"action:x:{uid}:\n")
    remount = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | plain | syscalls.MS_NOEXEC
    syscalls.mount("none", "/run", None, remount)
    # With one uid for both, the guard's files in /proc would be the worker's own: oom_score_adj, for one, can be written by it.
    processes = "subset=pid" if identity else "subset=pid,hidepid=invisible"
    syscalls.mount("proc", "/proc", "proc", plain | syscalls.MS_NOEXEC, processes)
    # While a part of this /proc is covered, nobody may mount a whole one in a user namespace of his own (mount_too_revealing).
    syscalls.mount("/run", "/proc/1/fdinfo", None, syscalls.MS_BIND)


def _await_go(status: socket.socket) -> None:
    record = records.unpack(status.recv(records.SIZE))
    if record is None or record.kind != records.GO:
        os._exit(0)  # the launcher has gone, or doesn't want us any more


def _enter_user_namespace(proc: int) -> None:
    """One uid on the outside, an ordinary one inside: exec of anything gives no capability.

    No further ones inside: all that a tenant makes of any namespace counts as the maker's too, and he would soon have no more.
    """
    uid, gid = os.geteuid(), os.getegid()
    # The new /proc shows pid 1 only to itself, as `self`; the maps want a process that is single-threaded: ours is.
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    _write("/proc/self/uid_map", f"{_NOBODY_INSIDE} {uid} 1")
    with suppress(PermissionError):  # denied already in the namespace above, which is what we want
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{_NOBODY_INSIDE} {gid} 1")
    _write("sys/user/max_user_namespaces", "0", proc)
    syscalls.drop_bounding_set()  # a new user namespace begins with all of it


def _write(path: str, text: str, folder: int | None = None) -> None:
    """Without a file object, which costs a dozen pages of a forked process."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=folder)
    os.write(fd, text.encode())
    os.close(fd)


def _drop(uid: int | None) -> None:
    """Gives up every privilege, for good; `uid` None: the only one there is stays. `confine_descendants` has done the rest."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    syscalls.drop_capabilities()


def _run_worker(plan: Plan, work: Work, guards: socket.socket) -> NoReturn:
    try:
        os.close(_STATUS)
        os.setsid()  # a process group reaches across pid namespaces: kill(0) would hit the makers
        os.dup2(_STDOUT, 1)
        os.dup2(_STDERR, 2)
        os.close(_STDOUT)
        os.close(_STDERR)
        with suppress(OSError):  # a preference, no protection: under memory pressure of the host it is the action that dies
            _write("/proc/self/oom_score_adj", "1000")
        _drop(plan.identity.worker if plan.identity else None)
        syscalls.forget_keys()  # what was left there by an earlier run of this uid, or by who started the program
        syscalls.set_dumpable(True)  # else its own /proc/self belongs to root; it holds nothing that isn't the tenant's
        os.chdir("/tmp")
        os.umask(0o022)
        hand_over(guards, plan.walls.confine_worker())
        leave(work(Place(_JOB, _ANSWERS, plan.room, plan.confine, _receive_program, plan.in_scope)))
    finally:
        os._exit(1)


def _receive_program() -> int:
    """From the server, which has compiled it; then that channel is closed, since descriptors could be sent through it."""
    with socket.socket(fileno=_PROGRAM) as channel:
        _, fds, _, _ = socket.recv_fds(channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise EOFError("the sandbox is retired")
    return fds[0]


def confine_descendants() -> None:
    """What every sandbox inherits from its zygote, done there once: no later execve can give a privilege back, and the limits
    that every run has; a run's own follow when its job is known. No RLIMIT_AS: it breaks V8 and Go.
    """
    syscalls.drop_bounding_set()
    syscalls.forbid_new_privileges()
    for kind, value in (
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 1),  # not 0: for that, a host that pipes its cores still starts its handler, as root; core(5)
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_SIGPENDING, 1024),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def limit_worker(memory_bytes: int, tasks: int) -> None:
    """The job's own limits on this process, as far as rlimits carry: private writable memory a process, processes a uid.

    Called between the reading of the job and its execution; the hard limits can't be raised again.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if os.getuid() == _NOBODY_INSIDE:
        tasks += 1  # the guard has the same uid, and isn't the tenant's
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))


class _Watch:
    """Reaps, reports the worker's end, keeps time. `until_the_end` returns only to end pid 1, and everything with it."""

    def __init__(self, status: socket.socket, worker: int, leaving: Leaving) -> None:
        self._status = status
        self._worker = worker  # 0 once its end is told: its number may then be another process's of the sandbox
        self._leaving = leaving
        self._spent_parked = 0.0
        self._ends_at = math.inf
        self._wakeups, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # Python's own SIGINT handler would let a worker with our uid raise inside us; pid 1 ignores what it has no handler for.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def until_the_end(self) -> None:
        poll = select.poll()
        poll.register(self._wakeups, select.POLLIN)
        poll.register(self._status, select.POLLIN)
        handed_over = self._leaving.channel.fileno()
        poll.register(handed_over, select.POLLIN)
        self._reap()
        while (left := self._ends_at - time.monotonic()) > 0:
            ready = dict(poll.poll(None if left == math.inf else left * 1000))
            # First, since it was sent first: what the worker spent before it isn't the run's, though the run may be over by now.
            if self._status.fileno() in ready and not self._take_record():
                return
            if self._wakeups in ready:
                _drain(self._wakeups)
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
        record = records.unpack(self._status.recv(records.SIZE))
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
        self._status.send(records.pack(records.EXIT, wait_status, records.pack_cost(cost)))


def _drain(reader: int) -> None:
    with suppress(BlockingIOError):
        while os.read(reader, 4096):
            pass
