"""A scope of systemd for each sandbox: where its limits are, and what the kernel counts for it.

THEORY OF OPERATION

A scope is made around the guard, which waits for go and has no child yet: whatever is forked later is in it too. `PIDs=` moves
only the processes that exist, so this can't be done any later. That systemd has done it is its claim; /proc/<pid>/cgroup
is the kernel's word, and is asked before go. In the same way a limit is in force when its cgroup file says so: on cgroup v1
systemd says yes to a MemoryMax that the kernel has refused.

A parked sandbox has the default limits; the claim sets those that differ, and the run's id. On cgroup v1 systemd sets neither a
limit of swap nor a reservation: those two files are ours.

A scope goes by itself, with its cgroups, when its last process has ended. So the counters are read before the kill. One that
never had a process never goes: the kernel moves no zombie into a cgroup, and doesn't say so. So where a sandbox was given up
before its scope was seen to hold it, systemd is told to stop the scope.

Where the launcher shares the slice above that of the runs with the server, all runs together give way to these two at once: the
slice of the runs is idle (cpu.idle of the kernel's cgroup-v2.rst). Between slices of the host that changes nothing.
"""

import functools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

import structlog
import trio

from appliance.runner.launch import cgroups, kernelfiles, manager, owners
from appliance.runner.launch.limits import (
    GUARD_TASKS,
    OOM_POLICY,
    RESERVATION_V1,
    SLICE,
    SWAP_V1,
    SWAP_V2,
    Limits,
    default_weight,
    expected_files,
    limit_properties,
    reservation_of,
    unit_properties,
)
from appliance.runner.launch.manager import ManagerError
from appliance.runner.launch.oomkills import OomKills

log = structlog.get_logger()

PARENT_SLICE = "codeactions.slice"
PREFIX = "codeactions-run-"
_KNOWN_LIMITS = 256  # those of a code are few, and of a host not many
_IDLE = "cpu.idle"
YOUNG_SECONDS = 0.01
_YOUNG_WEIGHT = 30  # times that of others
_RECONNECT_SECONDS = 0.1
_RECONNECTED_SECONDS = 5.0  # systemd executes itself anew in less
_GIVE_UP_SECONDS = 5.0  # systemd stops a scope in a millisecond


class ScopeFailed(Exception):
    """No scope, or not the limits that were asked for; the message says which."""


class Scope:
    """One sandbox's unit, with limits that are in force."""

    def __init__(self, scopes: "Scopes", name: str, folders: cgroups.Folders, limits: Limits) -> None:
        self.name = name
        self._scopes = scopes
        self._folders = folders
        self._limits = limits
        self._spent_parked = 0

    async def claim(self, memory_bytes: int, cpu_percent: int, tasks: int, run_id: str) -> None:
        """This run's limits instead of the default ones. Raises `ScopeFailed` when one of them isn't in force."""
        before = self._limits
        wanted = before._replace(memory_bytes=memory_bytes, cpu_percent=cpu_percent, tasks=tasks)
        in_force = limit_properties(before)
        changed = [pair for name, pair in limit_properties(wanted).items() if in_force.get(name) != pair]
        if memory_bytes > before.memory_bytes:
            self._limit_v1(wanted)  # it may never be below the limit of memory alone
        description = f"run {run_id}"
        connection = await self._scopes.connection()
        try:
            if changed:
                await connection.set_properties(self.name, [("Description", ("s", description)), *changed])
            else:
                await connection.post_description(self.name, description)
        except ManagerError as error:
            raise ScopeFailed(str(error)) from error
        if memory_bytes < before.memory_bytes:
            self._limit_v1(wanted)
        self._limits = wanted
        self.check()
        self._weigh(_YOUNG_WEIGHT)
        self._scopes.oom_kills.look()
        self._spent_parked = cgroups.cpu_us(self._folders) or 0

    def grow_up(self) -> None:
        """The run has had its time as a young one: from now on it weighs what any other does."""
        self._weigh(1)

    def _weigh(self, times: int) -> None:
        """A weight that the operator has set (CPU_SHARES) stays as it is."""
        if self._limits.cpu_weight is None:
            _, file, value = default_weight(self._scopes.hierarchies, times)
            with suppress(OSError):  # it has ended
                kernelfiles.write(f"{self._folders.cpu}/{file}", value)

    def _limit_v1(self, limits: Limits) -> None:
        """What systemd doesn't set on cgroup v1. That it worked is for `check` to say."""
        for _, file, value in self._scopes.expected_files(limits):
            if file in (SWAP_V1, RESERVATION_V1):
                with suppress(OSError):
                    kernelfiles.write(f"{self._folders.memory}/{file}", value)

    def check(self) -> None:
        """Raises `ScopeFailed` unless the kernel has every limit as it was asked for."""
        for controller, file, value in self._scopes.expected_files(self._limits):
            found = cgroups.read(f"{self._folders.of(controller)}/{file}")
            if found is None and file in (SWAP_V1, SWAP_V2) and not self.limits_swap():
                continue  # named on every run: `swap_unlimited`
            if found != value:
                raise ScopeFailed(f"{file} is {found or 'not there'} instead of {value}")

    def limits_swap(self) -> bool:
        file = SWAP_V1 if self._scopes.hierarchies.is_v1("memory") else SWAP_V2
        return (self._folders.memory / file).exists()

    @property
    def folder(self) -> Path:
        """Its cgroup in the hierarchy of version 2 where there is one, which alone can kill all in it."""
        return self._folders.unified or self._folders.memory

    def forget(self) -> None:
        """Its sandbox has ended."""
        self._scopes.alive.discard(self.name)

    def counters(self) -> cgroups.Counters:
        """Of the run: what was spent while parked isn't its own, nor is the guard one of its tasks."""
        read = cgroups.read_counters(self._folders)
        if read.oom_kills is None:  # the scope has gone with a guard that somebody has killed
            read = read._replace(oom_kills=int(self._scopes.oom_kills.are_new()))
        elif read.oom_kills:
            self._scopes.oom_kills.are_new()  # these are known now, and nobody else's
        return read._replace(
            cpu_us=None if read.cpu_us is None else read.cpu_us - self._spent_parked,
            tasks_peak=None if read.tasks_peak is None else read.tasks_peak - GUARD_TASKS,
        )


class Scopes:
    """What makes scopes on this host. `limits` are those of a parked sandbox; `mark` is the launcher's."""

    def __init__(
        self, connection: manager.Manager, hierarchies: cgroups.Hierarchies, limits: Limits, binds_to: str | None, mark: str
    ) -> None:
        self._manager = connection
        self._reconnected = trio.Event()
        self.hierarchies = hierarchies
        self.expected_files = functools.lru_cache(_KNOWN_LIMITS)(functools.partial(expected_files, hierarchies=hierarchies))
        self.oom_kills = OomKills()
        self.limits_swap = True
        self.gives_way = False
        self._limits = limits
        self.folder = Path()  # where the cgroups of all scopes are, once `learn` knows
        self._properties = unit_properties(limits, binds_to)
        self._form = manager.scope_form(self._properties)
        self._mark = mark  # several launchers may work on one host, and each counts from 1
        self.alive: set[str] = set()  # the names of those whose sandbox lives

    async def make(self, number: int, pid: int) -> Scope:
        """A scope around a process that has no child yet. Raises `ScopeFailed`; the process is then the caller's to kill, if it
        lives still."""
        name = f"{PREFIX}{self._mark}-{number}.scope"
        self.alive.add(name)
        try:
            return await self._make(name, pid)
        except BaseException:
            with trio.move_on_after(_GIVE_UP_SECONDS, shield=True):
                await self.stop(name)
            self.alive.discard(name)
            raise

    async def stop(self, name: str) -> None:
        """Ends a scope, whether there is one or not; what can't be ended now is found again by the sweep."""
        with suppress(ManagerError):
            await self._manager.stop_unit(name)

    async def _make(self, name: str, pid: int) -> Scope:
        connection = await self.connection()
        try:
            await connection.start_scope(self._form, name, pid)
        except ManagerError as error:
            raise ScopeFailed(str(error)) from error
        scope = Scope(self, name, self.folders_of(name, pid), self._limits)
        scope._limit_v1(self._limits)
        scope.check()
        self._give_way(scope)
        return scope

    def _give_way(self, scope: Scope) -> None:
        """Each time, since the slice goes with its last scope, and systemd may set it back."""
        if self.gives_way:
            with suppress(OSError):  # it came with Linux 5.15
                kernelfiles.write(scope._folders.cpu.parent / _IDLE, "1")

    def folders_of(self, name: str, pid: int) -> cgroups.Folders:
        """Raises `ScopeFailed` unless the process is in the scope, in each hierarchy."""
        try:
            paths = cgroups.paths_of(pid)
        except OSError as error:
            raise ScopeFailed("the sandbox ended while its scope was made") from error
        tail = f"/{PARENT_SLICE}/{SLICE}/{name}"
        for controller in self.hierarchies.required():
            if not paths.get(controller, "").endswith(tail):
                raise ScopeFailed(f"the sandbox is not in its scope: {controller or 'cgroup v2'}: {paths.get(controller)}")
        return self.hierarchies.folders(paths)

    async def learn(self, runs: int) -> None:
        """What this systemd and this kernel do, by trying, before anything depends on it. Raises `ScopeFailed`."""
        async with _bystander() as pid:
            try:
                scope = await self.make(0, pid)
            except ScopeFailed as error:
                if OOM_POLICY not in str(error):
                    raise
                self._form = manager.scope_form([pair for pair in self._properties if pair[0] != OOM_POLICY])
                scope = await self.make(0, pid)
            self.limits_swap = scope.limits_swap()
            self.folder = scope.folder.parent
            scope.forget()
        if self._limits.memory_reservation and not self.hierarchies.is_v1("memory"):
            await self._reserve(runs)

    async def _reserve(self, runs: int) -> None:
        """A reservation counts only below a slice that has it too: memory.low of the kernel's cgroup-v2.rst."""
        for unit in (PARENT_SLICE, SLICE):
            try:
                await self._manager.set_properties(unit, [("MemoryLow", ("t", runs * reservation_of(self._limits)))])
            except ManagerError as error:
                raise ScopeFailed(f"{unit}: {error}") from error

    async def connection(self) -> manager.Manager:
        """The open one, which is waited for a little; else the lost one."""
        with trio.move_on_after(_RECONNECTED_SECONDS):
            while self._manager.lost.is_set():
                await self._reconnected.wait()
        return self._manager

    async def keep_connected(self, nursery: trio.Nursery) -> None:
        """A manager that executes itself anew (systemctl daemon-reexec, an upgrade) is found again."""
        while True:
            await self._manager.lost.wait()
            log.warning("the connection to systemd is lost")
            reasons = set()
            while self._manager.lost.is_set():
                try:
                    self._manager = await manager.connect(nursery)
                except ManagerError as error:
                    if str(error) not in reasons:
                        log.warning("systemd can't be reached", reason=str(error))
                    reasons.add(str(error))
                    await trio.sleep(_RECONNECT_SECONDS)
            self._reconnected.set()
            self._reconnected = trio.Event()
            log.info("systemd is back")


async def open_scopes(nursery: trio.Nursery, limits: Limits, runs: int) -> Scopes:
    """Raises `ScopeFailed` where this host has no scopes for us; the message says why. `runs`: how many there may be at once."""
    if os.geteuid() != 0:
        raise ScopeFailed("only root can have them made")
    if not _is_booted():
        raise ScopeFailed("systemd doesn't run this host")
    try:
        connection = await manager.connect(nursery)
        if not connection.sees_us():
            raise ScopeFailed("systemd is that of another pid namespace")
        hierarchies = cgroups.hierarchies()
        if not hierarchies.mounts:
            raise ScopeFailed("no cgroups are mounted")
        scopes = Scopes(connection, hierarchies, limits, await _own_service(connection), owners.own_mark())
        # With one processor nobody should: a server under a flood of requests would leave the runs next to nothing.
        scopes.gives_way = _shares_the_slice() and len(os.sched_getaffinity(0)) > 1
    except ManagerError as error:
        raise ScopeFailed(str(error)) from error
    await scopes.learn(runs)
    nursery.start_soon(scopes.keep_connected, nursery, name="new connections to systemd")
    return scopes


def _is_booted() -> bool:
    """sd_booted(3)"""
    return Path("/run/systemd/system").is_dir()


def _shares_the_slice() -> bool:
    """With the server: ours, or our parent. Only an installation has it so."""
    paths = cgroups.paths_of(os.getpid())
    return f"/{PARENT_SLICE}/" in paths.get("name=systemd", paths.get("", ""))


async def _own_service(connection: manager.Manager) -> str | None:
    """The service whose main process we are: scopes are to end with it. That of a server whose child we are must not be bound to:
    a stop would then end the runs first, which the server still waits for."""
    try:
        unit = await connection.unit_of(os.getpid())
        if unit.endswith(".service") and await connection.main_pid(unit) == os.getpid():
            return unit
    except ManagerError:
        pass  # a process that is in no unit: started by hand
    return None


@asynccontextmanager
async def _bystander() -> AsyncIterator[int]:
    """A process to try a scope with."""
    process = await trio.lowlevel.open_process(["cat"], stdin=PIPE, stdout=DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
