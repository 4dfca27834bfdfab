"""The server's side of the launcher: claims sandboxes and hears of their ends."""

import itertools
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from appliance.entities import Language
from appliance.errors import CannotStart
from appliance.runner import packets, wire
from appliance.runner.outcome import Isolation, Job, Purpose
from engines.table import spec_of

log = structlog.get_logger()

_OTHER_SERVER_SECONDS = 10.0  # a server that was killed is noticed when the launcher is ready for it
_RETRY_SECONDS = 0.25  # the next launcher needs about a second to be ready
_END_SECONDS = 5.0  # to kill some parked sandboxes takes some ten milliseconds


class LauncherGone(Exception):
    """The launcher has ended, and every sandbox with it."""


class _Refused(CannotStart):
    """The launcher serves somebody else."""


class ClaimRefused(Exception):
    """No sandbox for this run; the message says why."""


class ClaimedSandbox(NamedTuple):
    """Our ends of its pipes; the event of its end, which is None when the launcher went away with it."""

    number: int
    job: int
    answers: int
    stdout: int
    stderr: int
    ending: "Ending"

    def close(self) -> None:
        """Before a job was sent this ends it."""
        packets.close_all((self.job, self.answers, self.stdout, self.stderr))


class Ending:
    """Set once: when nothing of the sandbox lives any more."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self.end: wire.Ended | None = None

    async def wait(self) -> wire.Ended | None:
        await self._event.wait()
        return self.end

    def set(self, end: wire.Ended | None) -> None:
        self.end = end
        self._event.set()


class _Answer:
    """What a claim waits for."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.sandbox: ClaimedSandbox | None = None
        self.refusal = "the launcher has gone"


class Launcher:
    """A connection to a launcher that has said hello.

    `path` is the socket of a launcher that comes back when it has gone, None for a child of our own.
    """

    def __init__(self, sock: trio.socket.SocketType, hello: wire.Hello, path: Path | None = None) -> None:
        self._path = path
        self._hello = hello
        self._back = trio.Event()
        level = "reduced" if hello.missing else "full"
        self.isolation = Isolation(level=level, missing=tuple(hello.missing), absent=tuple(hello.absent), reasons=hello.reasons)
        self.floor = hello.floor
        self.languages: Mapping[Language, str] = hello.languages
        self.lacking: Mapping[Language, str] = hello.lacking
        self.orphans_swept = dict.fromkeys(wire.OrphanKind, 0)
        self._sock = sock
        self._tickets = itertools.count(1)
        self._answers: dict[int, _Answer] = {}
        self._endings: dict[int, Ending] = {}
        self._sending = trio.Lock()
        self._gone = False

    async def claim(self, job: Job, deadline_ms: int) -> ClaimedSandbox:
        """Raises `ClaimRefused`, or `LauncherGone`; a launcher that comes back is waited for. When cancelled, a sandbox that
        comes too late is killed."""
        while True:
            try:
                return await self._claim(job, deadline_ms)
            except LauncherGone:  # before the job was sent: it can have had no effects
                if self._path is None:
                    raise
                await self._back.wait()

    async def _claim(self, job: Job, deadline_ms: int) -> ClaimedSandbox:
        if self._gone:
            raise LauncherGone
        ticket = next(self._tickets)
        answer = self._answers[ticket] = _Answer()
        claim = wire.Claim(
            ticket=ticket,
            language=job.language,
            purpose=_purpose_of(job),
            run_id=job.run_id,
            network=job.limits.network,
            memory_bytes=job.limits.memory_bytes,
            cpu_percent=job.limits.cpu_percent,
            tasks=job.limits.tasks,
            deadline_ms=deadline_ms,
        )
        try:
            await self._send(claim, () if job.program is None else (job.program,))
            await answer.event.wait()
        except BaseException:
            self._answers.pop(ticket, None)
            if answer.sandbox is not None:
                answer.sandbox.close()
            raise
        if answer.sandbox is not None:
            return answer.sandbox
        if self._gone:
            raise LauncherGone
        raise ClaimRefused(answer.refusal)

    async def end(self, *, waits: bool) -> None:
        """Lets it go; if it `waits`, until it has given up its sandboxes and ended: for a while."""
        with suppress(OSError), trio.move_on_after(_END_SECONDS, shield=True):
            if waits:
                self._sock.shutdown(socket.SHUT_WR)
                while await self._sock.recv(wire.PACKET_BYTES):
                    pass
        self._sock.close()

    async def kill(self, sandbox: ClaimedSandbox) -> None:
        if self._endings.get(sandbox.number) is not sandbox.ending:
            return  # it has ended; a later launcher may have given its number to another
        with suppress(LauncherGone):  # and so is the sandbox
            await self._send(wire.Kill(sandbox=sandbox.number))

    async def _send(self, message: wire.ToLauncher, fds: Sequence[int] = ()) -> None:
        try:
            async with self._sending:
                await packets.send(self._sock, wire.pack(message), fds)
        except OSError as error:
            raise LauncherGone from error

    async def listen(self) -> None:
        """Hands out what the launcher says; raises `LauncherGone` at its end, when all who wait have been told."""
        try:
            while True:
                try:
                    packet = await packets.receive(self._sock, wire.PACKET_BYTES)
                except packets.DescriptorsLost as error:
                    await self._take(wire.from_launcher(error.data), None)
                    continue
                if not packet.data:
                    raise LauncherGone
                await self._take(wire.from_launcher(packet.data), packet.fds)
        except OSError as error:
            raise LauncherGone from error
        finally:
            self._gone = True
            for ending in self._endings.values():
                ending.set(None)
            for answer in self._answers.values():
                answer.event.set()

    async def keep_connected(self) -> None:
        """`listen` for as long as there is a launcher, and to the next one when it went.

        Raises `LauncherGone` when it was a child of our own, or when the next one offers something else than what this
        program has told everybody.
        """
        try:
            while True:
                try:
                    await self.listen()
                except LauncherGone:
                    if self._path is None:
                        raise
                    log.error("the launcher has gone", socket=str(self._path))
                    await self._reconnect(self._path)
                    log.info("the launcher is back")
        finally:
            self._path = None  # nobody may wait for it any more
            self._back.set()

    async def _reconnect(self, path: Path) -> None:
        self._sock.close()
        sock, hello = await _next_launcher(path)
        if hello != self._hello:
            sock.close()
            raise LauncherGone("the next launcher offers other languages or another isolation")
        self._sock, self._gone = sock, False
        self._answers, self._endings = {}, {}
        self._back.set()
        self._back = trio.Event()

    async def _take(self, message: wire.FromLauncher, fds: Sequence[int] | None) -> None:
        """`fds` None: they were lost, and a sandbox whose job channel is closed ends by itself."""
        if isinstance(message, wire.Claimed) and fds is None:
            self._endings[message.sandbox] = Ending()
            self._refuse(message.ticket, "the server has too many open files")
        elif isinstance(message, wire.Claimed) and fds is not None:
            ending = self._endings[message.sandbox] = Ending()
            job, answers, stdout, stderr = fds
            sandbox = ClaimedSandbox(message.sandbox, job, answers, stdout, stderr, ending)
            answer = self._answers.pop(message.ticket, None)
            if answer is None:
                sandbox.close()
                await self.kill(sandbox)
            else:
                answer.sandbox = sandbox
                answer.event.set()
        elif isinstance(message, wire.Refused):
            self._refuse(message.ticket, message.reason)
        elif isinstance(message, wire.Swept):
            self.orphans_swept[message.kind] += 1
        elif isinstance(message, wire.Ended):
            self._endings.pop(message.sandbox).set(message)

    def _refuse(self, ticket: int, reason: str) -> None:
        if (answer := self._answers.pop(ticket, None)) is not None:
            answer.refusal = reason
            answer.event.set()


def _purpose_of(job: Job) -> Purpose:
    if job.purpose is Purpose.RUN and spec_of(job.language).wants_more(job.source):
        return Purpose.RUN_MORE
    return job.purpose


def start_launcher(command: Sequence[str]) -> socket.socket:
    """Starts a launcher as a child, with the environment it needs and no other; returns our end of its socket.

    It has a session of its own: a terminal's interrupt is for the server, which then drains while the launcher still works.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [*command, "--fd", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
        )
    return ours


def reach_launcher(path: Path) -> socket.socket:
    """A connection to the installed launcher's socket; connecting starts it. Raises `CannotStart`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise CannotStart(
            f"no launcher at {path}: {error.strerror}; `systemctl status codeactions-launcher.socket` tells more"
        ) from None
    return sock


@asynccontextmanager
async def connect(ours: socket.socket, path: Path | None = None) -> AsyncIterator[Launcher]:
    """The launcher at the other end, once it has said hello. Raises `CannotStart` when it never does.

    `path`: where the next one is found when this one has gone.
    """
    launcher = Launcher(*await _first_launcher(ours, path), path)
    try:
        yield launcher
    finally:
        # A child of ours: a service manager kills it at our end, and a scope that it had no time to stop would be left.
        await launcher.end(waits=path is None)


async def _first_launcher(ours: socket.socket, path: Path | None) -> tuple[trio.socket.SocketType, wire.Hello]:
    """One that was started for a server that is no more refuses the next until it has seen that; then the socket has another."""
    gives_up_at = trio.current_time() + _OTHER_SERVER_SECONDS
    while True:
        try:
            return (sock := trio.socket.from_stdlib_socket(ours)), await _greeted(sock)
        except _Refused:
            if path is None or trio.current_time() > gives_up_at:
                raise
            await trio.sleep(_RETRY_SECONDS)
            ours = reach_launcher(path)


async def _next_launcher(path: Path) -> tuple[trio.socket.SocketType, wire.Hello]:
    """However long it takes; each reason why there is none yet is logged once."""
    reason = ""
    while True:
        try:
            sock = trio.socket.from_stdlib_socket(reach_launcher(path))
            return sock, await _greeted(sock)
        except CannotStart as error:
            if str(error) != reason:
                log.warning("the launcher can't be reached", reason=str(error))
            reason = str(error)
            await trio.sleep(_RETRY_SECONDS)


async def _greeted(sock: trio.socket.SocketType) -> wire.Hello:
    """What the launcher says first; the socket is closed when that is no hello."""
    try:
        packet = await packets.receive(sock, wire.PACKET_BYTES)
        if not packet.data:
            raise CannotStart("the launcher ended before it was ready; it has said why above")
        hello = wire.from_launcher(packet.data)
        if isinstance(hello, wire.NotServed):
            raise _Refused(f"the launcher refuses this server: {hello.reason}")
        if not isinstance(hello, wire.Hello):
            raise CannotStart("the launcher did not say hello: it is of another version")
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise CannotStart(f"the launcher ended before it was ready: {error.strerror}") from None
        raise
    return hello
