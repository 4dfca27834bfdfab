"""Finds what belongs to no sandbox that lives, and ends it: at the launcher's start, and every five seconds.

THEORY OF OPERATION

Everything of a run dies with pid 1 of its pid namespace, and every sandbox with its zygote, which ends when its launcher does.
So the sweep has nothing to find, and says so by a counter that stays 0. It is there for what nobody has thought of: a zygote that
was stopped when its launcher was killed, a process that somebody put into a scope, a kernel with a fault. It looks for

- zygotes whose launcher has gone, by its mark in their command line, and with them their sandboxes' namespaces. The mounts of a
  sandbox are in its mount namespace only, which ends with its last process;
- processes with a uid that only sandboxes have, when no sandbox has it;
- scopes that belong to no sandbox of ours, or to a launcher that has gone: with processes, or with none, which a launcher leaves
  that is killed while systemd puts a sandbox into its scope (`scopes`).

A scope that has just been made, or whose sandbox has just ended, looks like one that was left, and so does a zygote that is
about to end because its launcher was killed; what is left is still there later. So an orphan is what was seen twice, five
seconds apart; at the start, what is still there after two.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from appliance.runner import wire
from appliance.runner.launch import cgroups, killing, owners
from appliance.runner.launch.scopes import PREFIX, Scopes
from appliance.runner.launch.slots import Slots
from appliance.runner.sandbox import zygote

log = structlog.get_logger()

SWEEP_SECONDS = 5.0
_START_SECONDS = 2.0  # what dies with a killed launcher is gone in milliseconds; a machine under load takes its time
_LOOK_AGAIN_SECONDS = 0.1
_DEPTH_OF_SANDBOX = 2  # its zygote's namespace, and its own
_MANY = 20  # processes looked at before others get their turn: 0.5 ms


class Orphan(NamedTuple):
    """`name` is the process or the scope; `pids` its processes, `folder` the cgroup that holds them, where there is one."""

    kind: wire.OrphanKind
    name: str
    pids: tuple[int, ...]
    folder: Path | None = None


OnSwept = Callable[[wire.OrphanKind], Awaitable[None]]
"""Is told the kind of each orphan that was ended."""


class Sweep:
    def __init__(self, mark: str, slots: Slots | None, scopes: Scopes | None, on_swept: OnSwept) -> None:
        self._mark = mark
        self._slots = slots
        self._scopes = scopes
        self._on_swept = on_swept
        self._at_start: list[Orphan] = []
        self._seen: set[tuple[wire.OrphanKind, str]] = set()

    async def at_start(self) -> None:
        """Before the first sandbox is made, and before anybody can be told. Empty scopes, systemd's to stop, get longer."""
        left = await self._with_processes()
        ends_at = trio.current_time() + _START_SECONDS
        while left and trio.current_time() < ends_at:
            await trio.sleep(_LOOK_AGAIN_SECONDS)
            again = await self._with_processes()
            left = {name: again[name] for name in left.keys() & again.keys()}
        self._at_start = list(left.values())
        for orphan in self._at_start:
            await self._end(orphan)

    async def _with_processes(self) -> dict[tuple[wire.OrphanKind, str], Orphan]:
        return {name: orphan for name, orphan in (await self._look()).items() if orphan.pids}

    async def run(self) -> None:
        for orphan in self._at_start:
            await self._on_swept(orphan.kind)
        while True:
            await trio.sleep(SWEEP_SECONDS)
            try:
                await self._once()
            except OSError as error:  # too many open files: what is left then is still there the next time
                log.warning("sweep not possible", reason=str(error))

    async def _once(self) -> None:
        found = await self._look()
        for name in found.keys() & self._seen:
            await self._end(found[name])
            await self._on_swept(found[name].kind)
        self._seen = set(found)

    async def _look(self) -> dict[tuple[wire.OrphanKind, str], Orphan]:
        found = [orphan async for orphan in self._processes()]
        return {(orphan.kind, orphan.name): orphan for orphan in (*found, *self._left_scopes())}

    async def _processes(self) -> AsyncIterator[Orphan]:
        depth = owners.depth(owners.status(os.getpid()))
        living: set[str] | None = None
        for number, pid in enumerate(owners.pids()):
            if number % _MANY == 0:
                await trio.lowlevel.checkpoint()
            status = owners.status(pid)
            if not self._may_end(status):
                continue
            if self._has_free_uid(status, depth):
                yield Orphan(wire.OrphanKind.PROCESS, f"process {pid}", (pid,))
            elif _is_first(status, depth) and (mark := _mark_of_zygote(pid)) not in (None, self._mark):
                living = owners.living_marks() if living is None else living
                if mark not in living:
                    yield Orphan(wire.OrphanKind.ZYGOTE, f"process {pid}", (pid,))

    def _may_end(self, status: dict[str, str]) -> bool:
        """An ordinary user's launcher looks at his own processes."""
        return self._slots is not None or status.get("Uid", "").split()[:1] == [str(os.geteuid())]

    def _has_free_uid(self, status: dict[str, str], depth: int) -> bool:
        """A launcher in a container may have the same uids. Our sandboxes are two namespaces below us, and what was put there by
        hand is in our own; the name server and the sandboxes of a container are in neither.
        """
        if owners.depth(status) - depth not in (0, _DEPTH_OF_SANDBOX):
            return False
        uid = status.get("Uid", "0").split()[0]
        return self._slots is not None and self._slots.is_free(int(uid)) and not status.get("State", "").startswith("Z")

    def _left_scopes(self) -> Iterator[Orphan]:
        if self._scopes is None:
            return
        folder = self._scopes.folder
        living: set[str] | None = None
        for name in _names(folder):
            mark = name.removeprefix(PREFIX).partition("-")[0]
            if not name.startswith(PREFIX) or not name.endswith(".scope") or name in self._scopes.alive:
                continue
            living = owners.living_marks() if living is None else living
            if mark == self._mark or mark not in living:
                yield Orphan(wire.OrphanKind.SCOPE, name, cgroups.pids_of(folder / name), folder / name)

    async def _end(self, orphan: Orphan) -> None:
        log.error("orphan swept", kind=orphan.kind.value, name=orphan.name, pids=list(orphan.pids))
        if orphan.folder is None:
            await killing.end_process(orphan.pids[0])
            return
        await killing.empty(orphan.folder)
        if not orphan.pids and self._scopes is not None:
            await self._scopes.stop(orphan.name)


def _is_first(status: dict[str, str], depth: int) -> bool:
    """Pid 1 of a namespace made in ours: one of a container's is further down, and not ours to judge."""
    numbers = status.get("NSpid", "").split()
    return len(numbers) == depth + 1 and numbers[-1] == "1"


def _mark_of_zygote(pid: int) -> str | None:
    """None for anything else."""
    with suppress(OSError):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if zygote.BOOT.encode() in arguments:
            return arguments[-2].decode(errors="replace")  # after the last there is nothing
    return None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # no run has been there yet
        return []
