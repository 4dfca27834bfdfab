"""One sandbox: a guard that is pid 1 of its own pid namespace, and a worker, its only child, which executes one job.

THEORY OF OPERATION

What can be is prepared in the zygote (`plans`). `become_sandbox` runs in a process just forked by it, the first in a new pid
namespace, with all of the zygote's rights. It takes its descriptors into fixed places and closes every other, makes its own
mount, ipc and uts (and, for a run without network, net) namespaces, mounts its own /tmp, /dev/shm, /run and /proc, then waits for
the launcher to say go: until then nothing of a tenant's has been read, so that the launcher can put the process wherever its
limits are.

After go the guard takes a cgroup namespace, whose root is where the launcher has put it, forks the worker, and both give up
their identity for good: the worker takes the slot's uid, the guard another one, so that the worker can neither signal nor
trace its guard. Where the maker isn't root there is one uid only; both then live in a user namespace of the sandbox's own.

The worker waits for its job on the job channel. When it ends (or is about to: `leaving`), the guard reports its wait status on
the status channel and stays, reaping (`watch`), until the launcher kills it: the end of pid 1 ends every process of the
namespace, whatever it has done to escape (double fork, setsid, ignored signals). The guard ends by itself when the launcher has
gone (end of file on the status channel) and when its timer runs out, which is the backstop for a launcher that is stuck.
"""

import os
import resource
import socket
from contextlib import suppress
from typing import NoReturn

from appliance.runner.sandbox import records, syscalls
from appliance.runner.sandbox.plans import ANSWERS, JOB, NOBODY_INSIDE, PROGRAM, STATUS, WORKER, Plan
from appliance.runner.sandbox.steps import StepFailed, take
from engines.spec import Confine, Place, Program, leave

_GO = records.pack(records.GO)
_GO_AT_ONCE = records.pack(records.GO, 1)
_OPEN_FILES = 1024


def place_of(room: int, confine: Confine, *, in_scope: bool) -> Place:
    return Place(JOB, ANSWERS, room, confine, _receive_program, in_scope)


def become_sandbox(plan: Plan) -> NoReturn:
    """Never returns, never raises: whatever fails is told to the launcher as a FAILED record, and ends the process."""
    step = "go"
    try:
        take(plan.before_go)
        go = os.read(STATUS, records.SIZE)
        if go not in (_GO, _GO_AT_ONCE):
            os._exit(0)  # the launcher has gone, or doesn't want us any more
        take(plan.after_go)
        if plan.zygotes_proc is not None:
            step = "user namespace"
            _enter_user_namespace(plan.zygotes_proc)
        step = "fork"
        take(plan.fork)
        worker = syscalls.bare_fork()
        if worker == 0:
            _run_worker(plan, rehearses=go == _GO)
        assert worker == WORKER, worker
        step = "watch"
        take(plan.guard)
        plan.watch.until_the_end()
    except StepFailed as error:
        _tell_failure(error.name, error.number)
    except BaseException as error:  # noqa: BLE001 - the process ends here, and the launcher is told
        _tell_failure(step, error.errno if isinstance(error, OSError) and error.errno else 0)
    finally:
        os._exit(1)


def _tell_failure(step: str, number: int) -> None:
    """Descriptor 3 is the status channel as soon as the first step is over; before that nobody can be told."""
    os.write(STATUS, records.pack(records.FAILED, number, step.encode()))


def _enter_user_namespace(zygotes_proc: int) -> None:
    """One uid on the outside, an ordinary one inside: exec of anything gives no capability.

    No further ones inside: all that a tenant makes of any namespace counts as the maker's too, and he would soon have no more.
    `zygotes_proc` is a descriptor, which is closed: the sandbox's own /proc has no sysctls.
    """
    uid, gid = os.geteuid(), os.getegid()
    # The new /proc shows pid 1 only to itself, as `self`; the maps want a process that is single-threaded: ours is.
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    _write("/proc/self/uid_map", f"{NOBODY_INSIDE} {uid} 1")
    with suppress(PermissionError):  # denied already in the namespace above, which is what we want
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{NOBODY_INSIDE} {gid} 1")
    _write("sys/user/max_user_namespaces", "0", zygotes_proc)
    os.close(zygotes_proc)
    syscalls.drop_bounding_set()  # a new user namespace begins with all of it


def _write(path: str, text: str, folder: int | None = None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    os.write(fd, text.encode())
    os.close(fd)


def _run_worker(plan: Plan, *, rehearses: bool) -> NoReturn:
    try:
        take(plan.worker)
        leave(plan.work(plan.place if rehearses else plan.place._replace(rehearses=False)))
    finally:
        os._exit(1)


def _receive_program() -> Program:
    """From the launcher. Then that channel is closed: descriptors could be sent through it."""
    with socket.socket(fileno=PROGRAM) as channel:
        limits, fds, _, _ = socket.recv_fds(channel, records.LIMITS_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise EOFError("the sandbox is retired")
    return Program(fds[0], records.unpack_limits(limits))


def confine_descendants() -> None:
    """What every sandbox inherits from its zygote, done there once: no later execve can give a privilege back, and the limits
    that every run has; a run's own follow when its job is known. No RLIMIT_AS: it breaks V8 and Go.
    """
    syscalls.drop_bounding_set()
    syscalls.forbid_new_privileges()
    # The session's that started the program. Those of a uid come to be when somebody asks for them, and the filter refuses that:
    # to empty them in each run made three for every uid, and the kernel looks through all keys whenever one has gone.
    syscalls.leave_session_keyring()
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
    if os.getuid() == NOBODY_INSIDE:
        tasks += 1  # the guard has the same uid, and isn't the tenant's
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
