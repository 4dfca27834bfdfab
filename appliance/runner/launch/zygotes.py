"""The launcher's side of a zygote: starting it, having it fork, seeing it end."""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

import engines
from appliance import program
from appliance.runner import packets
from appliance.runner.launch import owners
from appliance.runner.launch.slots import Slot
from appliance.runner.sandbox import birth, root, walls, zygote
from engines.spec import Found

_ANSWER_BYTES = 1024
_STUCK_SECONDS = 10  # a fork takes about a millisecond
_START_SECONDS = 180  # preloading takes 0.2 s; a loaded machine gets its time, since a language that is late is missing


class ZygoteFailed(Exception):
    """It could not be made, or has ended; the message says why, `lacking` what this host has not."""

    def __init__(self, message: str, lacking: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.lacking = lacking


class LanguageLacking(Exception):
    """The language's program is there, and of no use: trying again is in vain. The message says why."""


class ForkFailed(Exception):
    """The zygote lives, but the kernel refused the fork; the message says why."""


class Forked(NamedTuple):
    """A sandbox's first process: its pid here and in the zygote's namespace, and a descriptor of it, the receiver's to close."""

    pid: int
    pidfd: int
    pid_inside: int


class Zygote:
    """A running zygote. `users` counts the sandboxes that live in its pid namespace: its end is theirs."""

    def __init__(self, pid: int, control: trio.socket.SocketType, version: str, lacking: tuple[str, ...]) -> None:
        self.version = version
        self.lacking = lacking
        self.users = 0
        self.retired = False
        self.gone = trio.Event()
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._control = control
        self._turn = trio.Lock()

    async def fork(
        self, fds: Sequence[int], slot: Slot | None, room: int, *, with_network: bool, joins: bool, in_scope: bool
    ) -> Forked:
        """Makes a sandbox of this size class that holds `fds`. Raises `ForkFailed` or `ZygoteFailed`."""
        flags = (
            (zygote.OWN_UIDS if slot else 0)
            | (zygote.WITH_NETWORK if with_network else 0)
            | (zygote.JOIN_NETWORK if joins else 0)
            | (zygote.IN_SCOPE if in_scope else 0)
        )
        uids = slot or Slot(0, 0)
        request = zygote.REQUEST.pack(zygote.FORK, flags, uids.worker, uids.guard, room)
        async with self._turn:
            # Whole, even when cancelled: an answer that nobody takes would be the next request's, and name a wrong process.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _STUCK_SECONDS):
                return await self._exchange(request, fds)
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        raise ZygoteFailed(f"the zygote did not answer for {_STUCK_SECONDS} s")

    async def _exchange(self, request: bytes, fds: Sequence[int]) -> Forked:
        try:
            await packets.send(self._control, request, fds)
            answer = await packets.receive(self._control, _ANSWER_BYTES)
            if answer.data.startswith(zygote.FORK) and answer.pid is not None:
                return Forked(answer.pid, os.pidfd_open(answer.pid), zygote.PID.unpack(answer.data[1:])[0])
            if answer.data.startswith(zygote.BROKEN):
                raise ForkFailed(answer.data[1:].decode(errors="replace"))
        except OSError as error:  # of pidfd_open too: it has ended, and nobody keeps its children as zombies
            raise ZygoteFailed(f"the zygote is gone: {error}") from error
        raise ZygoteFailed("the zygote has ended")

    async def reap(self, pid_inside: int) -> None:
        try:
            async with self._turn:
                await packets.send(self._control, zygote.REQUEST.pack(zygote.REAP, 0, pid_inside, 0, 0))
        except OSError:
            pass  # it has ended, and the kernel has reaped for it

    async def wait(self) -> None:
        """Returns when it has ended, and everything in its pid namespace with it; sets `gone`. One task may wait."""
        await trio.lowlevel.wait_readable(self._pidfd)
        self.gone.set()

    async def end(self) -> None:
        """Kills it with all its sandboxes, waits, and frees what we held of it."""
        with trio.CancelScope(shield=True):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.wait()
            os.close(self._pidfd)
            self._control.close()
            with suppress(ChildProcessError):  # not adopted by us: somebody else's to reap
                os.waitpid(self._pid, os.WNOHANG)  # noqa: ASYNC222 - it doesn't wait


async def start(preload: str, found: Found, nameserver: str | None) -> Zygote:
    """A zygote that has preloaded its engine; raises `ZygoteFailed` or `LanguageLacking`."""
    _reap_failed()
    try:
        return await _start(preload, found, nameserver)
    except OSError as error:
        raise ZygoteFailed(f"it can't be made: {error}") from error


async def _start(preload: str, found: Found, nameserver: str | None) -> Zygote:
    maker, ours = birth.start_zygote(
        _root_spec(found.mounts, nameserver), _time_zone(), preload, found.program, owners.own_mark()
    )
    os.waitpid(maker, 0)  # noqa: ASYNC222 - it ends as soon as it has forked
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    control = trio.socket.from_stdlib_socket(ours)
    with trio.move_on_after(_START_SECONDS):
        hello = await packets.receive(control, _ANSWER_BYTES)
        if hello.data.startswith(zygote.HELLO) and hello.pid is not None:
            version, *lacking = hello.data[1:].decode().split()
            return await _if_allowed(Zygote(hello.pid, control, version, tuple(lacking)))
        control.close()
        if hello.data.startswith(zygote.LACKING):
            raise LanguageLacking(hello.data[1:].decode(errors="replace"))
        if hello.data.startswith(zygote.NO_NAMESPACES):
            raise ZygoteFailed(hello.data[1:].decode(errors="replace"), (walls.NAMESPACES,))
        why = hello.data[1:].decode(errors="replace") if hello.data.startswith(zygote.BROKEN) else "its interpreter ended at once"
        raise ZygoteFailed(why)
    control.close()
    raise ZygoteFailed(f"it was not ready after {_START_SECONDS} s")


def _reap_failed() -> None:
    """Those that ended before they said who they are: as one is tried a second, they would be all of the host's pids in a day."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def _if_allowed(zygote: Zygote) -> Zygote:
    """The floor: below it nothing is run."""
    if walls.SECCOMP in zygote.lacking:
        await zygote.end()
        reason = "this host has no seccomp: its kernel takes no system call filter, and without one no action is run"
        raise ZygoteFailed(reason, zygote.lacking)
    return zygote


def _root_spec(mounts: tuple[tuple[str, str], ...], nameserver: str | None) -> root.RootSpec:
    python = program.sandbox_python()
    return root.RootSpec(
        engine=str(Path(engines.__file__ or "").parent),
        sandbox=str(Path(root.__file__).parent),
        interpreter=python.executable,
        prefix=python.prefix,
        library=python.library,
        alias=python.alias,
        mounts=mounts,
        nameserver=nameserver,
    )


def _time_zone() -> str:
    """The host's zone by name where it has one, else by file; tzset(3)."""
    target = os.path.realpath("/etc/localtime")
    return target.partition("/zoneinfo/")[2] or ":/etc/localtime"
