"""One sandbox as the launcher has it: made, parked, claimed, and at last killed and seen to be empty."""

import itertools
import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import structlog
import trio

from appliance.runner.launch import cgroups, kernelfiles, killing, processors
from appliance.runner.launch.network.namespaces import NetworkFailed
from appliance.runner.launch.scopes import Scope, ScopeFailed, Scopes
from appliance.runner.launch.slots import Slot, Slots
from appliance.runner.launch.zygotes import Forked, ForkFailed, Zygote
from appliance.runner.packets import close_all
from appliance.runner.sandbox import records
from appliance.runner.sandbox.leaving import cpu_seconds

log = structlog.get_logger()
_numbers = itertools.count(1)
_PF_EXITING = 0x4  # of the flags in proc_pid_stat(5)
_TELL_SECONDS = 0.05  # to say how a run has ended takes a tenth of a millisecond
_ANSWER_SECONDS = 0.004  # the server's part of it: the record, the answer
_PIPES = 4
_START_SECONDS = 1.0  # within which a program that was given has been started: it takes two milliseconds
_EMPTY_SECONDS = 10  # a killed namespace is empty in milliseconds; longer means a process stuck in the kernel


class SetupFailed(Exception):
    """The sandbox could not be made; names the step and the errno."""


class Sandbox:
    """`near` are our ends of job, answers, standard output and standard error, until they are handed on or closed;
    `for_program` that of the socket for a compiled language's program, until it has come."""

    def __init__(
        self, zygote: Zygote, forked: Forked, slot: Slot | None, near: list[int], status: trio.socket.SocketType
    ) -> None:
        self.number = next(_numbers)
        self.near, for_program = near[:_PIPES], near[_PIPES:]
        self._for_program = socket.socket(fileno=for_program[0]) if for_program else None
        self.made_at = trio.current_time()
        self.ended = trio.Event()
        self.reported = trio.Event()  # the worker's end is known, or everything has ended without it
        self.told: trio.Event | None = None  # of a claimed one: whoever waits for its run has been told
        self.wait_status: int | None = None
        self.cost: records.Cost | None = None
        self.scope: Scope | None = None
        self.counters: cgroups.Counters | None = None  # from shortly before its end
        self.zygote = zygote
        self._pid = forked.pid
        self._pid_inside = forked.pid_inside
        self._pidfd = forked.pidfd
        self._worker: int | None = None
        self._given_at: float | None = None  # when it was given its program
        self._program: int | None = None  # that one's process, as of the last look whether all is alive
        self._used: frozenset[int] = frozenset()
        self._slot = slot
        self._status = status
        self._is_over = False

    def kill(self) -> None:
        """Ends every process of it. The one place where a run is killed; harmless when it has ended."""
        if not self.ended.is_set():
            self._read_counters()
            killing.kill(self._pidfd)

    def _read_counters(self) -> None:
        """Once, while there is something to read: a scope without processes goes at once."""
        if self.counters is None:
            self.counters = self.scope.counters() if self.scope else cgroups.NO_COUNTERS

    def is_alive(self) -> bool:
        """The kernel's word on its guard, at once: the news of an end comes later, through the loop."""
        if self._is_over:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0) and not _is_exiting(self._pid) and not self._has_lost_program()

    def _has_lost_program(self) -> bool:
        """What waits in it has been killed, by whom ever: the worker is about to say so."""
        if self._worker is None or self._given_at is None:
            return False
        self._program = processors.child_of(self._worker)
        if self._program is None:
            return trio.current_time() > self._given_at + _START_SECONDS
        return _is_exiting(self._program)

    def use(self, chosen: frozenset[int]) -> None:
        """Its worker runs on these processors from now on; on any when there are none."""
        if chosen and chosen != self._used:
            for process in self._processes():
                processors.confine(process, chosen)
        self._used = chosen

    def give(self, program: int, memory_bytes: int, tasks: int) -> None:
        """What it is to start, if it has none yet; then the channel is closed at both ends. Nobody waits for it: a job that comes
        before the program has been started waits in its pipe."""
        if self._for_program is not None:
            with self._for_program, suppress(OSError):  # it has ended already: how, is told like any other end
                socket.send_fds(self._for_program, [records.pack_limits(memory_bytes, tasks)], [program])
            self._for_program = None
            self._given_at = trio.current_time()

    async def keep_time(self, deadline_ms: int) -> None:
        """To be called before the worker can be given its job: what it has spent by now isn't the run's."""
        await self._status.send(records.pack(records.TIME, deadline_ms, records.pack_cost(self._spent_parked())))

    def _spent_parked(self) -> records.Cost:
        """By the worker, and the program. Their clocks need no privilege, and cost a microsecond."""
        if self._worker is None:
            return records.Cost(None)
        with suppress(OSError):  # it has ended
            return records.Cost(round(sum(map(cpu_seconds, self._processes())) * 1e6))
        return records.Cost(None)

    def _processes(self) -> Iterator[int]:
        """The worker, and the program if it has been started ahead."""
        if self._worker is not None:
            yield self._worker
            if self._program is not None:
                yield self._program

    async def say_go(self, *, rehearses: bool) -> records.Record | None:
        """The guard's answer; None when it has ended already."""
        try:
            await self._status.send(records.pack(records.GO, 0 if rehearses else 1))
            record = records.unpack(await self._status.recv(records.SIZE))
        except OSError:
            return None
        self._worker = processors.child_of(self._pid)
        return record

    async def tend(self, slots: Slots) -> None:
        """Waits for the worker's end or the guard's, kills what is left, sees it empty, gives everything back."""
        with self._status:
            try:
                record = records.unpack(await self._status.recv(records.SIZE))
            except OSError:
                record = None
            self._is_over = True
            if record is not None and record.kind == records.EXIT:
                self.wait_status, self.cost = record.number, records.unpack_cost(record.payload)
                self._read_counters()
                self.reported.set()
                await self._let_tell()
        self.kill()
        with trio.move_on_after(_EMPTY_SECONDS) as patience:
            await trio.lowlevel.wait_readable(self._pidfd)
        if patience.cancelled_caught:
            log.error("sandbox is not empty", sandbox=self.number, seconds=_EMPTY_SECONDS)
            await trio.lowlevel.wait_readable(self._pidfd)
        if self.scope is not None:
            await killing.empty(self.scope.folder)  # of what isn't in its pid namespace, and was put there
            self.scope.forget()
        self.ended.set()
        self.reported.set()
        os.close(self._pidfd)
        await self.zygote.reap(self._pid_inside)
        self.zygote.users -= 1
        self.close_near()
        if self._slot is not None:
            await slots.give_back(self._slot)

    async def _let_tell(self) -> None:
        """A killed sandbox takes milliseconds of a processor to go: its run's answer is to be there before."""
        if self.told is not None:
            with trio.move_on_after(_TELL_SECONDS):
                await self.told.wait()
            await trio.sleep(_ANSWER_SECONDS)

    def hand_on(self) -> list[int]:
        """The near ends, for whoever was given the sandbox; closing them is then the caller's."""
        near, self.near = self.near, []
        return near

    def close_near(self) -> None:
        close_all(self.hand_on())
        if self._for_program is not None:
            self._for_program.close()


def _is_exiting(pid: int) -> bool:
    """A killed guard frees its memory and waits for the end of its namespace before its pidfd tells: milliseconds."""
    try:
        fields = kernelfiles.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:  # too many open files: the pidfd has said that it lives
        return False
    return bool(int(fields[6]) & _PF_EXITING)


class _Channels(NamedTuple):
    near: list[int]
    far: list[int]


def _open_channels(*, for_program: bool) -> _Channels:
    """Two pipes for the job channel, two for the output: through a unix socket a tenant could send descriptors.

    The one for a program is closed by the worker before anything of the tenant's is executed. Raises `SetupFailed` when there
    are too many open files.
    """
    ends: list[int] = []
    programs: list[int] = []
    try:
        for _ in range(4):
            ends.extend(os.pipe2(os.O_CLOEXEC))
        if for_program:
            programs = [end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    except OSError as error:
        close_all(ends)
        raise SetupFailed(f"pipes: {error.strerror}") from error
    (job_read, job_write), outputs = ends[:2], ends[2:]
    return _Channels([job_write, *outputs[::2], *programs[:1]], [job_read, *outputs[1::2], *programs[1:]])


def _open_status() -> tuple[socket.socket, socket.socket]:
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise SetupFailed(f"status channel: {error.strerror}") from error


class Shape(NamedTuple):
    """How a sandbox is to be: of which size class, with which network, whether a program comes with its job, and whether it has
    the time to rehearse one."""

    room: int
    with_network: bool
    for_program: bool
    rehearses: bool


async def make(zygote: Zygote, slots: Slots | None, scopes: Scopes | None, shape: Shape) -> Sandbox:
    """A parked sandbox. Raises `SetupFailed` or `ZygoteFailed`; nothing is left of it then."""
    if slots is not None and slots.are_taken:
        raise SetupFailed("as many sandboxes live as there are uids for")
    channels = _open_channels(for_program=shape.for_program)
    try:
        ours, theirs = _open_status()
    except SetupFailed:
        close_all([*channels.near, *channels.far])
        raise
    status = trio.socket.from_stdlib_socket(ours)
    slot = slots.take() if slots else None
    zygote.users += 1
    try:
        forked = await _fork(zygote, slots, slot, [theirs.fileno(), *channels.far], shape, in_scope=scopes is not None)
    except BaseException:
        zygote.users -= 1
        status.close()
        close_all(channels.near)
        if slot and slots:
            with trio.CancelScope(shield=True):
                await slots.give_back(slot)
        raise
    finally:
        theirs.close()
        close_all(channels.far)
    sandbox = Sandbox(zygote, forked, slot, channels.near, status)
    try:
        if scopes is not None:
            sandbox.scope = await scopes.make(sandbox.number, forked.pid)
        record = await sandbox.say_go(rehearses=shape.rehearses)
    except (trio.Cancelled, ScopeFailed) as error:
        sandbox.kill()
        with trio.CancelScope(shield=True):
            await sandbox.tend(slots or Slots(0))
        if isinstance(error, ScopeFailed):
            raise SetupFailed(f"scope: {error}") from error
        raise
    if record is None or record.kind != records.PARKED:
        await sandbox.tend(slots or Slots(0))
        raise SetupFailed(_explain(record))
    return sandbox


async def _fork(
    zygote: Zygote, slots: Slots | None, slot: Slot | None, fds: list[int], shape: Shape, *, in_scope: bool
) -> Forked:
    """Raises `SetupFailed` or `ZygoteFailed`."""
    try:
        network = await slots.network_of(slot) if slots and slot and shape.with_network else None
        given = fds if network is None else [*fds, network]
        joins = network is not None
        return await zygote.fork(given, slot, shape.room, with_network=shape.with_network, joins=joins, in_scope=in_scope)
    except (ForkFailed, NetworkFailed) as error:
        raise SetupFailed(str(error)) from error


def _explain(record: records.Record | None) -> str:
    if record is None or record.kind != records.FAILED:
        return "the sandbox ended while it was made"
    step = record.payload.rstrip(b"\0").decode(errors="replace")
    return f"{step}: {os.strerror(record.number)}"
