"""Sandboxes that wait for their one job, a few of each kind, so that a call doesn't wait for its sandbox."""

import math
from collections import deque
from typing import NamedTuple

import structlog
import trio

from appliance.entities import Network
from appliance.runner.launch import sandboxes, zygotes
from appliance.runner.launch.processors import Processors
from appliance.runner.launch.programs import Program, Programs
from appliance.runner.launch.sandboxes import Sandbox
from appliance.runner.launch.scopes import Scopes
from appliance.runner.launch.slots import Slots
from appliance.runner.launch.zygotes import LanguageLacking
from engines.spec import Found, Stage

log = structlog.get_logger()

RETIRE_SECONDS = 600  # a parked sandbox keeps the memory it was forked with
RENEW_SECONDS = 3600  # address layout and hash seed are shared by all that one zygote forks
_RESERVE_SECONDS = 24 * 3600  # its first call then takes some ten milliseconds more than the others
_RETRY_SECONDS = 1.0
_MAKERS = 2  # one waits for systemd and for its guard half of the time
_REST_SECONDS = 0.015  # a run without much to do is over by then
_PRESSED_SECONDS = 0.1
_TRIES = 3  # zygotes that a claim waits for: one that has just ended is replaced in 0.2 s


class Kind(NamedTuple):
    """Sandboxes of one kind can stand in for each other. `room` is the language's size class."""

    network: Network
    room: int


class Unavailable(Exception):
    """No sandbox of this kind can be made now; the message says why."""


class Garage(NamedTuple):
    """What all parkings of a launcher share: who tends their sandboxes, where uids and scopes come from, the name server, and the
    processors."""

    nursery: trio.Nursery
    slots: Slots | None
    scopes: Scopes | None
    nameserver: str | None
    processors: Processors


class Parking:
    """Keeps `keep` sandboxes of one stage of a language parked, of the default kind; makes others when they are asked for."""

    def __init__(self, garage: Garage, stage: Stage, found: Found, *, keep: int, default: Kind, for_program: bool) -> None:
        self._nursery, self._slots, self._scopes, self._nameserver, processors = garage
        self._stage = stage
        self._found = found
        self._keep = keep
        self._default = default
        self._for_program = for_program
        self._parked: deque[Sandbox] = deque()
        self._zygote: zygotes.Zygote | None = None
        self._taken = trio.Event()
        self._claims = deque([-math.inf] * 2, 2)  # when the last two came
        self._making = 0
        self._changed = trio.Event()  # of zygotes, or of what keeps us from having one
        self._is_hopeless = False
        self._programs = Programs(keep, self._pop, processors)
        self.trouble = "it has not started yet"
        self.lacking: tuple[str, ...] = ()  # what this host has not, by name

    @property
    def version(self) -> str | None:
        return self._zygote.version if self._zygote else None

    async def take(self, kind: Kind, program: Program | None = None) -> Sandbox:
        """A sandbox that is alive and parked; with the program in it, or yet to be given it. Raises `Unavailable`."""
        self._claims.append(trio.current_time())
        if kind == self._default and program is not None and (sandbox := self._programs.take(program)) is not None:
            return sandbox
        if kind == self._default and (sandbox := self._pop()) is not None:
            return sandbox
        for _ in range(_TRIES - 1):
            zygote, changed = self._zygote, self._changed
            try:
                return await self._make(kind, rehearses=False)
            except zygotes.ZygoteFailed:
                if self._is_hopeless:
                    raise Unavailable(self.trouble) from None
                if self._zygote is zygote:
                    await changed.wait()
            except sandboxes.SetupFailed as error:
                raise Unavailable(str(error)) from error
        try:
            return await self._make(kind, rehearses=False)
        except (sandboxes.SetupFailed, zygotes.ZygoteFailed) as error:
            raise Unavailable(str(error)) from error

    def _pop(self) -> Sandbox | None:
        while self._parked:
            sandbox = self._parked.popleft()
            self._taken.set()
            self._taken = trio.Event()
            if sandbox.is_alive():
                return sandbox
        return None

    def start_next(self, kind: Kind, program: Program) -> None:
        """After a run of a compiled program: the next one is started if it seems to come."""
        if kind == self._default:
            self._programs.start_next(program)

    async def _make(self, kind: Kind, *, rehearses: bool) -> Sandbox:
        shape = sandboxes.Shape(kind.room, kind.network is Network.INTERNET, self._for_program, rehearses)
        sandbox = await sandboxes.make(self._current(), self._slots, self._scopes, shape)
        self._nursery.start_soon(sandbox.tend, self._slots or Slots(0), name=f"sandbox {sandbox.number}")
        return sandbox

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Keeps a zygote alive and the park full; started when the first sandbox could be made, or could not.

        Returns when it never will be, because the language's program is of no use.
        """
        ready, reported = trio.Event(), trio.Event()
        self._nursery.start_soon(self._report_ready, ready, task_status, reported)
        try:
            await self._keep_parked(ready)
        except* LanguageLacking as group:
            self._is_hopeless = True
            self._note_trouble(group.exceptions[0])
            log.warning("language can't be run", engine=self._stage.preload, reason=self.trouble)
            ready.set()
            await reported.wait()  # one that returns without having been started would end the launcher

    async def _keep_parked(self, ready: trio.Event) -> None:
        while True:
            begun = trio.current_time()
            try:
                async with trio.open_nursery() as nursery:
                    await self._renew()
                    self._parked.append(await self._make(self._default, rehearses=True))
                    ready.set()
                    for _ in range(_MAKERS):
                        nursery.start_soon(self._refill)
                    with trio.move_on_after(RENEW_SECONDS):
                        await self._current().gone.wait()
                        log.error("a zygote ended", engine=self._stage.preload)
                    nursery.cancel_scope.cancel()
            except* (zygotes.ZygoteFailed, sandboxes.SetupFailed) as group:
                await trio.lowlevel.checkpoint_if_cancelled()  # then we have ended it ourselves, which is no trouble
                self._note_trouble(group.exceptions[0])
                log.error("sandboxes can't be made", engine=self._stage.preload, reason=self.trouble)
                ready.set()
                await trio.sleep_until(begun + _RETRY_SECONDS)  # at once, after one that has worked for a while

    async def _report_ready(self, ready: trio.Event, task_status: trio.TaskStatus[None], reported: trio.Event) -> None:
        await ready.wait()
        task_status.started()
        reported.set()

    def _current(self) -> zygotes.Zygote:
        if self._zygote is None:
            raise zygotes.ZygoteFailed(self.trouble)
        return self._zygote

    async def _renew(self) -> None:
        """The new one is there before the old one retires, so that no claim finds none."""
        zygote = await zygotes.start(self._stage.preload, self._found, self._nameserver)
        self._drop_zygote()
        self._zygote = zygote
        self.lacking = zygote.lacking
        self._tell_of_change()
        self._nursery.start_soon(self._bury, zygote, name=f"zygote {self._stage.preload}")

    def _note_trouble(self, error: Exception) -> None:
        self.trouble = str(error)
        self.lacking = getattr(error, "lacking", ())
        self._drop_zygote()
        self._tell_of_change()

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
        """One of some that work beside each other."""
        while True:
            self._retire_old()
            while self._has_room():
                await self._let_run()
                if self._has_room():
                    await self._add()
            with trio.move_on_after(RETIRE_SECONDS / 10):
                await self._taken.wait()

    def _has_room(self) -> bool:
        return len(self._parked) + self._making < self._keep

    async def _add(self) -> None:
        self._making += 1
        try:
            self._parked.append(await self._make(self._default, rehearses=not self._is_pressed()))
        finally:
            self._making -= 1

    async def _let_run(self) -> None:
        """To make a sandbox takes as much of the processors as a short run. While half of them are left, the runs go first."""
        while len(self._parked) > self._keep // 2 and (left := self._claims[-1] + _REST_SECONDS - trio.current_time()) > 0:
            with trio.move_on_after(left):
                await self._taken.wait()

    def _is_pressed(self) -> bool:
        """Claims come one after another, and most of the park is gone: a rehearsal would take longer than it spares."""
        return len(self._parked) <= self._keep // 2 and trio.current_time() - self._claims[0] < _PRESSED_SECONDS

    def _retire_old(self) -> None:
        now = trio.current_time()
        while self._parked and self._is_old(self._parked[0], now):
            self._parked.popleft().kill()
        self._programs.retire(lambda sandbox: self._is_old(sandbox, now))

    def _is_old(self, sandbox: Sandbox, now: float) -> bool:
        return not sandbox.is_alive() or sandbox.zygote is not self._zygote or now - sandbox.made_at > RETIRE_SECONDS


class Reserve(Parking):
    """Of a stage that another can stand in for: nothing of it lives before it is asked for, nor when it hasn't been for a day."""

    def __init__(self, garage: Garage, stage: Stage, found: Found, *, keep: int, default: Kind) -> None:
        super().__init__(garage, stage, found, keep=keep, default=default, for_program=False)
        self._begin_to_rest()

    def _begin_to_rest(self) -> None:
        self._asked, self._working = trio.Event(), trio.CancelScope()

    def ask(self) -> bool:
        """Whether it can be taken from now. If not, it soon can."""
        self._working.deadline = trio.current_time() + _RESERVE_SECONDS
        self._asked.set()
        return self._zygote is not None

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            while True:
                await self._asked.wait()
                with self._working:
                    await self._keep_parked(trio.Event())
                self._drop_zygote()
                self._retire_old()
                self._begin_to_rest()
                self._tell_of_change()
        except* LanguageLacking as group:
            self._note_trouble(group.exceptions[0])
            log.warning("a library can't be loaded", engine=self._stage.preload, reason=self.trouble)
