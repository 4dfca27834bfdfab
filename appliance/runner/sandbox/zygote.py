"""The zygote of a language: preloads its engine once, then forks a sandbox for each request of the launcher.

THEORY OF OPERATION

Its process is made by `birth`, which has built the root that it lives in, and executes `BOOT` there: `main`. What this module and
those that it needs import is memory of every sandbox.

`main` answers requests that come on a SOCK_SEQPACKET socket, one packet each:

    b"F" + flags, worker uid, guard uid, size class;        → b"F" + its pid here, with the same pid as SCM_CREDENTIALS;
           its descriptors                                    b"X" + why it couldn't fork
    b"R" + its pid here                                     → none: reap it; until then its number can't be used again

A sandbox's pid is sent as a credential because the kernel translates that to the launcher's pid namespace. As the zygote is
pid 1 of its own pid namespace, above those of its sandboxes, no sandbox outlives it; it ends when the launcher's end of the
socket closes.
"""

import gc
import importlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Any

from appliance.runner.sandbox import guard, plans, steps, syscalls, walls, watch

CONTROL = 3
REQUEST = struct.Struct("!cBIII")  # operation, flags, and three numbers
MAX_DESCRIPTORS = 7
PID = struct.Struct("!I")
WITH_NETWORK = 1
OWN_UIDS = 2
IN_SCOPE = 4
JOIN_NETWORK = 8  # the last descriptor is the namespace's
FORK = b"F"
REAP = b"R"
HELLO = b"H"  # + the interpreter's version, and the names of what this kernel lacks
BROKEN = b"X"  # + why there will be no hello, or was no fork
NO_NAMESPACES = b"N"  # + why none can be made: there will be no hello
LACKING = b"L"  # + why this host can't run the language: there will never be a hello

_CREDENTIALS = struct.Struct("iII")
BOOT = "import sys; sys.path.insert(0, '/engine'); from appliance.runner.sandbox import zygote; zygote.main(*sys.argv[1:3])"


def main(preload: str, program: str) -> None:
    """The life of a zygote: preload, say hello, serve requests until the launcher goes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    control = socket.socket(fileno=CONTROL)
    from engines.spec import Lacking

    stage = importlib.import_module(preload)
    try:
        version = stage.prepare(program)
    except Lacking as lacking:
        control.send(LACKING + str(lacking).encode())
        return
    sys.path.remove("/engine")
    for name in [name for name in sys.modules if name.partition(".")[0] == "appliance"]:
        del sys.modules[name]  # an action's own module of that name is the one that it gets
    sys.argv = [""]
    namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    guard.confine_descendants()
    host = walls.survey()
    steps.rehearse()
    watch.rehearse()
    _send_pid(control, HELLO + " ".join((version, *host.lacking)).encode(), os.getpid())
    gc.collect()
    gc.disable()  # here and in guards; an engine whose workers can do with it enables it there
    gc.freeze()  # what is shared with the children stays shared: the collector doesn't touch it

    while (request := _receive(control)) is not None:
        operation, flags, first, second, room, fds = request
        if operation == REAP:
            os.waitpid(first, 0)
        elif operation == FORK:
            identity = plans.Identity(first, second) if flags & OWN_UIDS else None
            in_scope = bool(flags & IN_SCOPE)
            confine = _leave_to_scope if in_scope else _confine
            network, near = (fds[-1], fds[:-1]) if flags & JOIN_NETWORK else (None, fds)
            channels = plans.Channels(near, network, bool(flags & WITH_NETWORK))
            wall = host.walls[identity is not None]
            place = guard.place_of(room, confine, in_scope=in_scope)
            plan = plans.plan_sandbox(channels, identity, wall, stage.work, place)
            try:
                pid = _fork_into_new_namespace(namespace, plan)
                _send_pid(control, FORK + PID.pack(pid), pid)
            except OSError as error:  # of the fork: not worth the sandboxes that live, which would end with us
                control.send(BROKEN + str(error).encode())
            for fd in fds:
                os.close(fd)


def _confine(limits: Mapping[str, Any]) -> None:
    guard.limit_worker(limits["memory_bytes"], limits["tasks"])


def _leave_to_scope(limits: Mapping[str, Any]) -> None:
    """Memory and tasks are counted for the whole sandbox: a process's own limits would only refuse what is within those."""


def _receive(control: socket.socket) -> tuple[bytes, int, int, int, int, tuple[int, ...]] | None:
    try:
        data, ancillary, flags, _ = control.recvmsg(REQUEST.size, socket.CMSG_LEN(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # the launcher was killed with an answer of ours unread
        return None
    if len(data) != REQUEST.size or flags & socket.MSG_CTRUNC:
        return None
    fds = tuple(fd for _, _, content in ancillary for fd in memoryview(content).cast("i"))
    operation, bits, first, second, third = REQUEST.unpack(data)
    return operation, bits, first, second, third, fds


def _send_pid(control: socket.socket, data: bytes, pid: int) -> None:
    credentials = _CREDENTIALS.pack(pid, os.geteuid(), os.getegid())
    control.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])


def _fork_into_new_namespace(own_namespace: int, plan: plans.Plan) -> int:
    """Forks a process that is pid 1 of a new namespace; returns its pid in ours."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    try:
        pid = syscalls.bare_fork()
        if pid == 0:
            guard.become_sandbox(plan)
    finally:
        syscalls.setns(own_namespace, syscalls.CLONE_NEWPID)
    return pid
