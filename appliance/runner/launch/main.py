"""The launcher process: one server connects, claims sandboxes, and is told when they have ended.

THEORY OF OPERATION

The server's socket is inherited (SOCK_SEQPACKET). Installed it is the first connection, of a user that may, to a socket that
systemd listens on; for as long as it lasts, whoever else connects is refused with a reason. A request names a language, a run
and a network mode; no path, command or uid ever comes from it. For each claim the launcher takes a parked sandbox, hands the
server its four pipe ends, and later says that it has ended. What a source was compiled to comes as a descriptor with the claim,
for the sandbox; one that is called again and again is handed to the next sandbox ahead (`programs`). The launcher never reads a
program, a job, an answer or an output.

End of file on the socket means that the server is gone: every sandbox is killed with its zygote, and the launcher ends. It
must not ask for a death signal instead: a server that runs Trio starts processes from a thread that retires, and would take
us with it. Installed, systemd starts the next launcher when the next server connects: each has one server, and scopes that are
bound to its unit.
"""

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import msgspec
import structlog
import trio

from appliance.entities import Language
from appliance.entities import Network as NetworkMode
from appliance.runner import packets, wire
from appliance.runner.launch import cgroups, doors
from appliance.runner.launch.languages import Languages
from appliance.runner.launch.limits import Limits
from appliance.runner.launch.network import router
from appliance.runner.launch.network.namespaces import NetworkFailed
from appliance.runner.launch.network.router import Network
from appliance.runner.launch.owners import own_mark
from appliance.runner.launch.parking import Garage, Kind, Parking, Unavailable
from appliance.runner.launch.processors import Processors
from appliance.runner.launch.programs import Program
from appliance.runner.launch.sandboxes import Sandbox
from appliance.runner.launch.scopes import YOUNG_SECONDS, ScopeFailed, Scopes, open_scopes
from appliance.runner.launch.slots import Slots, free_range
from appliance.runner.launch.sweep import Sweep
from appliance.runner.outcome import CGROUP_V2, NETWORK_FILTER, SCOPE, Purpose
from appliance.runner.sandbox import syscalls, walls
from engines.table import spec_of

log = structlog.get_logger()

# A second wall behind others: a host without it has the whole cage, and says so.
_OPTIONAL = (walls.LANDLOCK,)
_REFUSALS = 2  # limits that the kernel doesn't take twice are no accident of one sandbox
_MOST_TAKEN = 10  # sandboxes a claim, those among them that die while they are claimed


class Bounds(NamedTuple):
    """The most that one claim is granted, whatever the server asks for."""

    memory_bytes: int = 1 << 50
    cpu_percent: int = 1 << 50
    tasks: int = 1 << 50
    deadline_ms: int = 1 << 50
    networks: frozenset[NetworkMode] = frozenset(NetworkMode)

    def refusal(self, claim: wire.Claim) -> str:
        """What is beyond; empty when nothing is."""
        for name, asked, most in (
            ("max_memory", claim.memory_bytes, self.memory_bytes),
            ("max_cpu", claim.cpu_percent, self.cpu_percent),
            ("max_tasks", claim.tasks, self.tasks),
            ("max_seconds", claim.deadline_ms, self.deadline_ms),
        ):
            if asked > most:
                return f"the launcher grants no more than {most} as {name}, and {asked} was asked for"
        if claim.network not in self.networks:
            return f"the launcher grants no network {claim.network.value} (networks)"
        return ""


class LaunchOptions(NamedTuple):
    """`fd`: the server's socket, or, if it `listens`, the one to accept it on; `bounds`: what is granted; `keep`: parked
    sandboxes a language; `runs`: how many there may be at once; `limits`: those of a parked sandbox; `uid_base`: the first of
    the sandboxes' uids, used by root only; `programs`: what languages need of the host, by language; `allow`: NETWORK_ALLOW;
    `toolchain_cache`: a folder for builds, or ""."""

    listens: bool
    fd: int
    bounds: Bounds
    keep: int
    runs: int
    limits: Limits
    uid_base: int
    network: NetworkMode
    programs: Mapping[Language, str]
    allow: Sequence[str]
    toolchain_cache: str


def main(options: LaunchOptions) -> int:
    if not options.listens:
        # Who stops a service, of which we are the second process, means its server, which lets its runs come to their end and
        # then us. A handler, since nothing that we execute is to inherit this.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    syscalls.become_subreaper()
    os.umask(0o022)  # sandboxes inherit it, and what root makes in their file system is for other uids to read
    trio.run(_serve, options)
    return 0


async def _serve(options: LaunchOptions) -> None:
    slots = Slots(await free_range(options.uid_base)) if os.geteuid() == 0 else None
    async with AsyncExitStack() as stack:
        given = trio.socket.from_stdlib_socket(socket.socket(fileno=options.fd))
        door = await stack.enter_async_context(trio.open_nursery())
        stack.callback(door.cancel_scope.cancel)  # as the last: its scope is around all that follows
        server = await doors.accept_one(given, door) if options.listens else given
        network, reasons = await _network(stack, slots, options.allow)
        # Outlives the sandboxes, which have their scopes stopped when they are given up.
        buses = await stack.enter_async_context(trio.open_nursery())
        stack.callback(buses.cancel_scope.cancel)
        nursery = await stack.enter_async_context(trio.open_nursery())
        scopes, why_no_scopes = await _scopes(buses, options)
        processors = Processors(os.sched_getaffinity(0))
        garage = Garage(nursery, slots, scopes, network.nameserver if network else None, processors)
        languages = Languages(
            garage, options.programs, options.keep, options.limits.memory_bytes, options.network, options.toolchain_cache
        )
        connection = _Connection(server, nursery, languages, processors, options.bounds)
        sweep = Sweep(own_mark(), slots, scopes, connection.swept)
        await sweep.at_start()
        await languages.start()
        await connection.send(_hello(languages, scopes, network, reasons | why_no_scopes, own_uids=slots is not None))
        nursery.start_soon(sweep.run, name="sweep")
        await connection.serve()
        nursery.cancel_scope.cancel()


async def _scopes(nursery: trio.Nursery, options: LaunchOptions) -> tuple[Scopes | None, dict[str, str]]:
    """And why there are none."""
    try:
        return await open_scopes(nursery, options.limits, options.runs), {}
    except ScopeFailed as failed:
        log.info("runs get no scopes", reason=str(failed))
        return None, {SCOPE: str(failed)}


async def _network(stack: AsyncExitStack, slots: Slots | None, allow: Sequence[str]) -> tuple[Network | None, dict[str, str]]:
    """Where this host has none for us, runs have the host's, and each of them says so; and why."""
    try:
        if slots is None:
            raise NetworkFailed("only root can make one")
        network = await stack.enter_async_context(router.opened(allow, slots.take().worker))
    except NetworkFailed as failed:
        log.warning("runs have the network of the host", reason=str(failed))
        return None, {NETWORK_FILTER: str(failed)}
    slots.places = network.places
    return network, {}


def _hello(
    languages: Languages, scopes: Scopes | None, network: Network | None, reasons: dict[str, str], *, own_uids: bool
) -> wire.Hello:
    walls_lacking = languages.walls_lacking()
    lacking = [name for name in walls_lacking if name not in _OPTIONAL]
    missing = [*([] if network else [NETWORK_FILTER]), *lacking, *([] if own_uids else ["own_uid"])]
    if scopes is None:
        missing.insert(0, SCOPE)
    elif not scopes.limits_swap:
        missing.append("swap_unlimited")
    absent = [name for name in walls_lacking if name in _OPTIONAL]
    if not cgroups.controls_v2():
        absent.append(CGROUP_V2)
    versions, languages_lacking = languages.versions(), languages.lacking()
    floor = "" if versions else next(iter(languages_lacking.values()))
    return wire.Hello(missing=missing, absent=absent, floor=floor, languages=versions, lacking=languages_lacking, reasons=reasons)


class _Connection:
    """The one server's connection, and its sandboxes."""

    def __init__(
        self,
        server: trio.socket.SocketType,
        nursery: trio.Nursery,
        languages: Languages,
        processors: Processors,
        bounds: Bounds,
    ) -> None:
        self._server = server
        self._bounds = bounds
        self._nursery = nursery
        self._languages = languages
        self._claimed: dict[int, Sandbox] = {}
        self._processors = processors
        self._sending = trio.Lock()

    async def serve(self) -> None:
        """Until the server goes, or sends what is no message."""
        while True:
            try:
                message, fds = await self._receive()
            except (OSError, packets.BadPacket, msgspec.MsgspecError) as error:
                log.error("the server's message can't be read", reason=str(error))
                return
            if message is None:
                return
            if isinstance(message, wire.Claim):
                self._nursery.start_soon(self._claim, message, fds, name=f"claim {message.run_id}")
            else:
                packets.close_all(fds)
                self._kill(message.sandbox)

    async def _receive(self) -> tuple[wire.ToLauncher | None, Sequence[int]]:
        """No message: the server has gone. A claim whose program was lost is refused here, and the next message is waited for."""
        while True:
            try:
                packet = await packets.receive(self._server, wire.PACKET_BYTES)
            except packets.DescriptorsLost as lost:
                message = wire.to_launcher(lost.data)
                if not isinstance(message, wire.Claim):
                    return message, ()
                log.warning("a claim's program was lost", run_id=message.run_id, reason="too many open files")
                await self.send(wire.Refused(ticket=message.ticket, reason="the launcher has too many open files"))
                continue
            return (wire.to_launcher(packet.data) if packet.data else None), packet.fds

    def _kill(self, number: int) -> None:
        if (sandbox := self._claimed.get(number)) is not None:
            sandbox.kill()

    async def _claim(self, claim: wire.Claim, fds: Sequence[int]) -> None:
        try:
            refusal = await self._serve_claim(claim, fds)
        finally:
            packets.close_all(fds)
        if refusal:
            await self.send(wire.Refused(ticket=claim.ticket, reason=refusal))

    async def _serve_claim(self, claim: wire.Claim, fds: Sequence[int]) -> str:
        """Until its run is over. Returns why there was none, "" if there was."""
        if refusal := self._bounds.refusal(claim):
            log.warning("a claim beyond the launcher's bounds", run_id=claim.run_id, reason=refusal)
            return refusal
        parking = self._languages.parking(claim.language, claim.purpose)
        if parking is None:
            return f"this host can't run {claim.language}"
        program = Program(fds[0], claim.memory_bytes, claim.cpu_percent, claim.tasks) if fds else None
        kind = Kind(claim.network, spec_of(claim.language).room(claim.memory_bytes))
        try:
            sandbox = await self._take(parking, kind, program, claim)
        except Unavailable as error:
            return str(error)
        await self._run(sandbox, claim, program)
        if program is not None and claim.purpose is Purpose.RUN:
            parking.start_next(kind, program)
        return ""

    async def _run(self, sandbox: Sandbox, claim: wire.Claim, program: Program | None) -> None:
        self._claimed[sandbox.number] = sandbox
        sandbox.told = trio.Event()
        log.debug("sandbox claimed", sandbox=sandbox.number, run_id=claim.run_id)
        chosen = self._processors.assign(claim.cpu_percent)
        sandbox.use(chosen)
        with suppress(OSError):  # it has ended already: the server hears of that like of any other end
            await sandbox.keep_time(claim.deadline_ms)
        if program is not None:
            sandbox.give(program.descriptor, program.memory_bytes, program.tasks)
        near = sandbox.hand_on()
        await self.send(wire.Claimed(ticket=claim.ticket, sandbox=sandbox.number), tuple(near))
        packets.close_all(near)
        await self._reported(sandbox)
        self._processors.release(chosen)
        del self._claimed[sandbox.number]
        await self.send(_end_of(sandbox))
        sandbox.told.set()

    async def _reported(self, sandbox: Sandbox) -> None:
        with trio.move_on_after(YOUNG_SECONDS):
            await sandbox.reported.wait()
            return
        if sandbox.scope is not None:
            sandbox.scope.grow_up()
        await sandbox.reported.wait()

    async def _take(self, parking: Parking, kind: Kind, program: Program | None, claim: wire.Claim) -> Sandbox:
        """A sandbox whose limits are this run's, by the kernel's word. Raises `Unavailable`."""
        refusals: list[str] = []
        for _ in range(_MOST_TAKEN):
            sandbox = await parking.take(kind, program)
            try:
                if sandbox.scope is not None:
                    await sandbox.scope.claim(claim.memory_bytes, claim.cpu_percent, claim.tasks, claim.run_id)
            except ScopeFailed as failed:
                refusals.append(str(failed))
                log.error("limits not in force", sandbox=sandbox.number, run_id=claim.run_id, reason=str(failed))
                sandbox.kill()
                if len(refusals) == _REFUSALS:
                    raise Unavailable(f"its limits are not in force: {failed}") from failed
                continue
            if sandbox.scope is None or sandbox.is_alive():  # with one, time has passed
                return sandbox
        raise Unavailable("sandboxes end as soon as they are made")

    async def swept(self, kind: wire.OrphanKind) -> None:
        await self.send(wire.Swept(kind=kind))

    async def send(self, message: wire.FromLauncher, fds: tuple[int, ...] = ()) -> None:
        async with self._sending:
            with suppress(BrokenPipeError, ConnectionResetError):  # the server has gone: `serve` hears of it too
                await packets.send(self._server, wire.pack(message), fds)


def _end_of(sandbox: Sandbox) -> wire.Ended:
    """The kernel's counters of the scope, and without them what the guard could tell."""
    cost, counters = sandbox.cost, sandbox.counters or cgroups.NO_COUNTERS
    waited_us = cost.cpu_us if cost else None
    return wire.Ended(
        sandbox=sandbox.number,
        wait_status=sandbox.wait_status,
        cpu_us=waited_us if counters.cpu_us is None else counters.cpu_us,
        memory_peak_bytes=counters.memory_peak_bytes,
        tasks_peak=counters.tasks_peak,
        oom_kills=counters.oom_kills,
    )
