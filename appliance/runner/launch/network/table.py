"""The host's table, as the kernel has it: it lives as long as the process that owns it.

The owner is `nft -i`, fed by a pipe of ours. When this process ends, however it does, the pipe ends; nft stays for as long as
sandboxes take to die, since without the table what still runs would reach the host.
"""

import os
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from subprocess import DEVNULL, PIPE

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
_OWNER = f"{{ cat; sleep {_LONGER_SECONDS}; }} | exec nft -i"


class Table:
    """A session with the table's owner: nobody else can change it."""

    def __init__(self, plan: Plan, owner: trio.Process) -> None:
        self._plan = plan
        self._owner = owner

    async def say(self, line: str) -> None:
        assert self._owner.stdin is not None
        log.debug("network command", command="nft -i", stdin=line)
        try:
            await self._owner.stdin.send_all(f"{line}\n".encode())
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
        assert self._owner.stderr is not None
        complaint.append(bytes(await self._owner.stderr.receive_some()))
        scope.cancel()

    async def _exists(self) -> bool:
        with suppress(NetworkFailed):
            await run(["nft", "list", "chain", "inet", self._plan.table, "postrouting"])
            return True
        return False

    async def end(self) -> None:
        """With its owner the table goes at once: everything that it kept from the host has ended."""
        with trio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                os.killpg(self._owner.pid, signal.SIGKILL)
            await self._owner.wait()
            for pipe in (self._owner.stdin, self._owner.stderr):
                assert pipe is not None
                await pipe.aclose()


@asynccontextmanager
async def owned(plan: Plan) -> AsyncIterator[Table]:
    """The table's owner; gone, with the table, at the end of the block."""
    log.debug("network command", command=shlex.join(["sh", "-c", _OWNER]), stdin="")
    try:
        owner = await trio.lowlevel.open_process(
            ["sh", "-c", _OWNER], stdin=PIPE, stdout=DEVNULL, stderr=PIPE, env=_ENVIRONMENT, start_new_session=True
        )
    except OSError as error:
        raise NetworkFailed(f"sh: {error.strerror}") from error
    table = Table(plan, owner)
    try:
        yield table
    finally:
        await table.end()
