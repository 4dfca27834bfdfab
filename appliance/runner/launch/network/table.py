"""The host's table, as the kernel has it: it lives as long as the process that owns it.

The owner is `nft -i`, fed through a process of its own by a pipe of ours. When this process ends, however it does, the pipe ends;
the feeder keeps nft for as long as sandboxes take to die, since without the table what still runs would reach the host. When nft
itself ends (the kernel may have been short of memory), the table is gone: `ended` tells, and `renew` makes an owner anew.
"""

import os
import shlex
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from subprocess import DEVNULL, PIPE
from typing import NamedTuple

import structlog
import trio

from appliance.runner.launch.network.addresses import Plan
from appliance.runner.launch.network.namespaces import NetworkFailed, run

log = structlog.get_logger()

_LONGER_SECONDS = 1  # than the launcher: a guard ends in milliseconds after it
_ANSWER_SECONDS = 60  # nft takes milliseconds; a machine without a processor to spare must not have less isolation for it
_AGAIN_SECONDS = 0.005
# HOME: where it would keep a history of its commands.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
_OWNER = ("nft", "-i")
_FEEDER = ("sh", "-c", f"cat; sleep {_LONGER_SECONDS}")


class Table:
    """A session with the table's owner: nobody else can change it."""

    def __init__(self, plan: Plan, processes: "_Processes") -> None:
        self._plan = plan
        self._processes = processes

    async def say(self, line: str) -> None:
        feeder = self._processes.feeder
        assert feeder.stdin is not None
        log.debug("network command", command=shlex.join(_OWNER), stdin=line)
        try:
            await feeder.stdin.send_all(f"{line}\n".encode())
        except trio.BrokenResourceError as error:
            raise NetworkFailed("the owner of the host's table has ended") from error

    async def make(self, text: str) -> None:
        """Returns when the kernel has it. Raises `NetworkFailed` with nft's own words."""
        await self.say(text)
        complaint: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, complaint, nursery.cancel_scope)
            with trio.move_on_after(_ANSWER_SECONDS):
                while not await self._exists():  # noqa: ASYNC110 - the kernel tells nobody
                    await trio.sleep(_AGAIN_SECONDS)
                nursery.cancel_scope.cancel()
                return
            nursery.cancel_scope.cancel()
        said = b"".join(complaint).decode(errors="replace").strip().splitlines()
        raise NetworkFailed(f"nft: {said[0] if said else 'no table'}")

    async def _listen(self, complaint: list[bytes], scope: trio.CancelScope) -> None:
        """The end of its standard error, or anything on it, is the end of our hope."""
        stderr = self._processes.owner.stderr
        assert stderr is not None
        complaint.append(bytes(await stderr.receive_some()))
        scope.cancel()

    async def _exists(self) -> bool:
        with suppress(NetworkFailed):
            await run(["nft", "list", "chain", "inet", self._plan.table, "postrouting"])
            return True
        return False

    async def ended(self) -> None:
        """Returns when the owner has ended, and with it the table."""
        await self._processes.owner.wait()

    async def renew(self) -> None:
        """An owner that has no table yet. Raises `NetworkFailed`."""
        await self._processes.end()
        self._processes = await _start()

    async def end(self) -> None:
        """With its owner the table goes at once: everything that it kept from the host has ended."""
        await self._processes.end()


class _Processes(NamedTuple):
    owner: trio.Process
    feeder: trio.Process

    async def end(self) -> None:
        with trio.CancelScope(shield=True):
            for process in self:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                for pipe in (process.stdin, process.stderr):
                    if pipe is not None:
                        await pipe.aclose()


async def _start() -> _Processes:
    log.debug("network command", command=f"{shlex.join(_FEEDER)} | {shlex.join(_OWNER)}", stdin="")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        owner = await _open(_OWNER, stdin=reader, stdout=DEVNULL, stderr=PIPE)
        feeder = await _open(_FEEDER, stdin=PIPE, stdout=writer, stderr=DEVNULL)
    finally:
        os.close(reader)
        os.close(writer)
    return _Processes(owner, feeder)


async def _open(command: Sequence[str], *, stdin: int, stdout: int, stderr: int) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=_ENVIRONMENT, start_new_session=True
        )
    except OSError as error:
        raise NetworkFailed(f"{command[0]}: {error.strerror}") from error


@asynccontextmanager
async def owned(plan: Plan) -> AsyncIterator[Table]:
    """The table's owner; gone, with the table, at the end of the block."""
    table = Table(plan, await _start())
    try:
        yield table
    finally:
        await table.end()
