"""Sandboxes that wait for their one job, a few of each kind, so that a call doesn't wait for its sandbox."""

from collections import deque
from typing import NamedTuple

import structlog
import trio

from appliance.entities import Language, Network
from appliance.runner.launch import sandboxes, zygotes
from appliance.runner.launch.sandboxes import Sandbox
from appliance.runner.launch.scopes import Scopes
from appliance.runner.launch.slots import Slots

log = structlog.get_logger()

RETIRE_SECONDS = 600  # a parked sandbox keeps the memory it was forked with
RENEW_SECONDS = 3600  # address layout and hash seed are shared by all that one zygote forks
_RETRY_SECONDS = 1.0
_TRIES = 3  # zygotes that a claim waits for: one that has just ended is replaced in 0.2 s


class Kind(NamedTuple):
    language: Language
    network: Network


class Unavailable(Exception):
    """No sandbox of this kind can be made now; the message says why."""


class Parking:
    """Keeps `keep` sandboxes of the default kind parked; makes others when they are asked for."""

    def __init__(self, nursery: trio.Nursery, slots: Slots | None, scopes: Scopes | None, *, keep: int, default: Kind) -> None:
        self._nursery = nursery
        self._slots = slots
        self._scopes = scopes
        self._keep = keep
        self._default = default
        self._parked: deque[Sandbox] = deque()
        self._zygote: zygotes.Zygote | None = None
        self._taken = trio.Event()
        self._changed = trio.Event()  # of zygotes, or of what keeps us from having one
        self.trouble = "it has not started yet"
        self.lacking: tuple[str, ...] = ()  # what this host has not, by name

    @property
    def version(self) -> str | None:
        return self._zygote.version if self._zygote else None

    async def take(self, kind: Kind) -> Sandbox:
        """A sandbox that is alive and parked. Raises `Unavailable`."""
        while kind == self._default and self._parked:
            sandbox = self._parked.popleft()
            self._taken.set()
            if sandbox.is_alive():
                return sandbox
        for _ in range(_TRIES - 1):
            zygote, changed = self._zygote, self._changed
            try:
                return await self._make(kind)
            except zygotes.ZygoteFailed:
                if self._zygote is zygote:
                    await changed.wait()
            except sandboxes.SetupFailed as error:
                raise Unavailable(str(error)) from error
        try:
            return await self._make(kind)
        except (sandboxes.SetupFailed, zygotes.ZygoteFailed) as error:
            raise Unavailable(str(error)) from error

    async def _make(self, kind: Kind) -> Sandbox:
        with_network = kind.network is Network.INTERNET
        sandbox = await sandboxes.make(self._current(), self._slots, self._scopes, with_network=with_network)
        self._nursery.start_soon(sandbox.tend, self._slots or Slots(0), name=f"sandbox {sandbox.number}")
        return sandbox

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Keeps a zygote alive and the park full; started when the first sandbox could be made, or could not."""
        ready = trio.Event()
        self._nursery.start_soon(self._report_ready, ready, task_status)
        while True:
            begun = trio.current_time()
            try:
                async with trio.open_nursery() as nursery:
                    await self._renew()
                    self._parked.append(await self._make(self._default))
                    ready.set()
                    nursery.start_soon(self._refill)
                    with trio.move_on_after(RENEW_SECONDS):
                        await self._current().gone.wait()
                        log.error("a zygote ended", language=self._default.language)
                    nursery.cancel_scope.cancel()
            except* (zygotes.ZygoteFailed, sandboxes.SetupFailed) as group:
                await trio.lowlevel.checkpoint_if_cancelled()  # then we have ended it ourselves, which is no trouble
                self.trouble = str(group.exceptions[0])
                self.lacking = getattr(group.exceptions[0], "lacking", ())
                self._drop_zygote()
                self._tell_of_change()
                log.error("sandboxes can't be made", language=self._default.language, reason=self.trouble)
                ready.set()
                await trio.sleep_until(begun + _RETRY_SECONDS)  # at once, after one that has worked for a while

    async def _report_ready(self, ready: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        await ready.wait()
        task_status.started()

    def _current(self) -> zygotes.Zygote:
        if self._zygote is None:
            raise zygotes.ZygoteFailed(self.trouble)
        return self._zygote

    async def _renew(self) -> None:
        """The new one is there before the old one retires, so that no claim finds none."""
        zygote = await zygotes.start()
        self._drop_zygote()
        self._zygote = zygote
        self.lacking = zygote.lacking
        self._tell_of_change()
        self._nursery.start_soon(self._bury, zygote, name=f"zygote {self._default.language}")

    def _tell_of_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _drop_zygote(self) -> None:
        if self._zygote is not None:
            self._zygote.retired = True
        self._zygote = None

    async def _bury(self, zygote: zygotes.Zygote) -> None:
        """Frees a zygote when it has ended, or when it is retired and its last sandbox has."""
        try:
            while not (zygote.retired and zygote.users == 0):
                with trio.move_on_after(RETIRE_SECONDS / 10):
                    await zygote.wait()
                    return
        finally:
            await zygote.end()

    async def _refill(self) -> None:
        while True:
            self._taken = trio.Event()
            self._retire_old()
            while len(self._parked) < self._keep:
                self._parked.append(await self._make(self._default))
            with trio.move_on_after(RETIRE_SECONDS / 10):
                await self._taken.wait()

    def _retire_old(self) -> None:
        now = trio.current_time()
        while self._parked and self._is_old(self._parked[0], now):
            self._parked.popleft().kill()

    def _is_old(self, sandbox: Sandbox, now: float) -> bool:
        return not sandbox.is_alive() or sandbox.zygote is not self._zygote or now - sandbox.made_at > RETIRE_SECONDS
