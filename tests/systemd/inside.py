"""Programs that run inside the box, as root and in no service: `python -m tests.systemd.inside NAME`."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from appliance.runner.launch import cgroups, killing, manager
from appliance.runner.launch.limits import Limits, unit_properties
from appliance.runner.launch.owners import own_mark
from appliance.runner.launch.scopes import ScopeFailed, Scopes, open_scopes
from tests.appliance import eventually

LIMITS = Limits(memory_bytes=64 << 20, cpu_percent=50, tasks=8, memory_reservation=0, cpu_weight=None)


# Each ends when it has forked: none is there long enough to be killed by its number.
FORKS = "import os\nfor _ in range(4):\n    os.fork()\nwhile True:\n    if os.fork():\n        os._exit(0)\n"


def bystander() -> int:
    """A process that outlives this program."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


def zombie() -> int:
    """A process that has ended and was not waited for."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


async def bound(nursery: trio.Nursery) -> None:
    """A scope that lives as long as the service `bound-to`."""
    scopes = Scopes(await manager.connect(nursery), cgroups.hierarchies(), LIMITS, "bound-to.service", own_mark())
    print((await scopes.make(1, bystander())).name)


async def cancelled(nursery: trio.Nursery) -> None:
    """Calls that nobody waits for any more, among others that are waited for."""
    connection = await manager.connect(nursery)
    for _ in range(200):
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_soon, scope)
            await connection.unit_of(1)
        assert await connection.unit_of(1) == "init.scope"
    print("unhurt")


async def cancel_soon(scope: trio.CancelScope) -> None:
    scope.cancel()


async def elsewhere(nursery: trio.Nursery) -> None:
    """A process that somebody has moved out of its scope."""
    scopes = await open_scopes(nursery, LIMITS, 1)
    pid = bystander()
    scope = await scopes.make(1, pid)
    mounts = scopes.hierarchies.mounts
    (mounts.get("memory", mounts[cgroups.UNIFIED]).point / "cgroup.procs").write_text(str(pid))
    try:
        scopes.folders_of(scope.name, pid)
    except ScopeFailed as error:
        print(error)
    finally:
        os.kill(pid, 9)


async def tried(nursery: trio.Nursery) -> None:
    """What a launcher learns at its start."""
    try:
        await open_scopes(nursery, LIMITS, 1)
        print("scopes")
    except ScopeFailed as error:
        print(error)


async def refused(nursery: trio.Nursery) -> None:
    """What systemd doesn't do is an error with its words."""
    scopes = await open_scopes(nursery, LIMITS, 1)
    try:
        await scopes.make(1, 1 << 22)
    except ScopeFailed as error:
        print(error)


async def ended(nursery: trio.Nursery) -> None:
    """A sandbox that ends while systemd puts it into its scope: the kernel moves no zombie and says nothing of it."""
    scopes = await open_scopes(nursery, LIMITS, 1)
    pid = zombie()
    try:
        await scopes.make(1, pid)
    except ScopeFailed as error:
        print(error)


async def given_up(nursery: trio.Nursery) -> None:
    """Sandboxes that are killed when nobody waits for their scopes any more, as at a launcher's end."""
    scopes = await open_scopes(nursery, LIMITS, 1)
    for number in range(1, 101):
        pid = bystander()
        with trio.move_on_after(number / 100 * 0.003):
            await scopes.make(number, pid)
        os.kill(pid, 9)
    print("given up")


async def left(nursery: trio.Nursery) -> None:
    """What a launcher that was killed at a bad moment leaves: a scope without a process."""
    connection = await manager.connect(nursery)
    pid = zombie()
    name = f"codeactions-run-{'0' * 16}-1.scope"
    await connection.start_scope(manager.scope_form(unit_properties(LIMITS, None)), name, pid)
    print(name)


def _has_forked(folder: Path) -> bool:
    return len(cgroups.pids_of(folder)) > 2


async def emptied(_: trio.Nursery) -> None:
    """A cgroup whose processes fork as fast as they can, in each of the ways that kernels have of ending them."""
    mounts = cgroups.hierarchies().mounts
    folder = mounts[cgroups.UNIFIED].point / "forking"
    for hidden in ((), ("cgroup.kill",)):
        folder.mkdir()
        for name in hidden:
            subprocess.run(["mount", "--bind", "/dev/full", folder / name], check=True)
        inherit = partial((folder / "cgroup.procs").write_text, "0")
        subprocess.Popen([sys.executable, "-c", FORKS], start_new_session=True, stderr=subprocess.DEVNULL, preexec_fn=inherit)
        eventually(partial(_has_forked, folder))
        await killing.empty(folder)
        print(f"{len(hidden)} hidden: {len(cgroups.pids_of(folder))} left")
        for name in hidden:
            subprocess.run(["umount", folder / name], check=True)
        folder.rmdir()


async def main(name: str) -> None:
    programs = (bound, cancelled, elsewhere, emptied, ended, given_up, left, refused, tried)
    async with trio.open_nursery() as nursery:
        await {program.__name__: program for program in programs}[name](nursery)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
