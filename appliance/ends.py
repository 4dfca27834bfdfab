"""Records how runs ended, even while the store can't: the caller of an action has its answer, and the end isn't lost.

An end that the store doesn't take waits in memory, and is tried again with growing delays. What doesn't fit there, and what is
left when the process stops, goes to the spool in the state directory, and is stored at the next start or when the store is back.
An end is stored once however often it is tried: a run ends only once, and logs are known by their ids.
"""

import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from appliance import spool
from appliance.disk import fit_for_disk
from appliance.entities import CodeLog, RunStatus
from appliance.errors import StoreFailed
from appliance.spool import End
from appliance.storage.interface import Logs, Runs

MEMORY_BYTES = 64 * 1024 * 1024
END_BYTES = 2048  # an end beside its texts: its receipt, ids, times
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0

log = structlog.get_logger()


class Ends:
    """Made by `open_ends`; `retry` is its service."""

    def __init__(self, runs: Runs, logs: Logs, folder: Path, max_bytes: int) -> None:
        self._runs = runs
        self._logs = logs
        self._folder = folder
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: deque[End] = deque()
        self._work = trio.Event()

    async def finish(
        self, run_id: str, status: RunStatus, result: str, extra: dict[str, Any], at: datetime, logs: Sequence[CodeLog] = ()
    ) -> bool:
        """Stores the logs, then the end. False when the store can't and it is kept for later; only a defect is raised.

        Cancelled in the middle, the end is kept as well.
        """
        end = End(run_id=run_id, status=status, result=result, extra=extra, at=at, logs=tuple(logs))
        if self._waiting:  # the store is failing: this caller needn't wait to see it again
            await self._keep(end)
            return False
        try:
            await self._store(end)
        except StoreFailed as error:
            log.warning("run end not stored yet", run_id=run_id, reason=str(error))
            await self._keep(end)
            return False
        except trio.Cancelled:
            self._remember(end)
            raise
        return True

    async def retry(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tries again whatever waits, in memory and in the spool, for as long as it runs."""
        task_status.started()
        delay = FIRST_DELAY_S
        while True:
            await self._work.wait()
            self._work = trio.Event()
            try:
                await self._store_all()
            except StoreFailed as error:
                log.warning("run ends waiting", in_memory=len(self._waiting), retry_in_s=delay, reason=str(error))
                self._work.set()
                await trio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY_S)
            else:
                delay = FIRST_DELAY_S

    async def _store_all(self) -> None:
        """Raises `StoreFailed` at the first that can't be stored; what comes after it would only wait for the same."""
        while self._waiting:
            end = self._waiting[0]
            await self._store(end)
            self._forget(end)
        for path in await trio.to_thread.run_sync(spool.saved, self._folder):
            await self._store_saved(path)

    async def _store(self, end: End) -> None:
        if end.logs:
            await self._logs.append(end.logs)
        await self._runs.finish(end.run_id, end.status, end.result, end.extra, end.at)

    async def _store_saved(self, path: Path) -> None:
        try:
            end = await trio.to_thread.run_sync(spool.load, path)
        except spool.Unreadable as error:
            log.error("spool file unreadable", kept_as=str(error.aside), reason=str(error))
            return
        await self._store(end)
        await trio.to_thread.run_sync(path.unlink)
        log.info("run end stored from the spool", run_id=end.run_id)

    async def _keep(self, end: End) -> None:
        if self._bytes + _size(end) <= self._max_bytes:
            self._remember(end)
        elif not await self._spool(end):
            self._remember_less(end)
        self._work.set()

    def _remember(self, end: End) -> None:
        self._waiting.append(end)
        self._bytes += _size(end)
        self._work.set()

    def _remember_less(self, end: End) -> None:
        """No memory for the whole, no disk: how the run ended matters more than what it said."""
        kept = fit_for_disk(end.result, low=True, is_base64=end.extra.get("result_encoding") == "base64")
        less = msgspec.structs.replace(end, result=kept.text, extra=end.extra | {"result_truncated": True}, logs=())
        if self._bytes + _size(less) <= 2 * self._max_bytes:
            log.error("run end cut", run_id=end.run_id, logs_lost=len(end.logs), result_cut=kept.cut)
            self._remember(less)
        else:
            log.error("run end lost", run_id=end.run_id, status=end.status.value)

    def _forget(self, end: End) -> None:
        self._waiting.popleft()
        self._bytes -= _size(end)

    async def _spool(self, end: End) -> bool:
        with trio.CancelScope(shield=True):  # a write that isn't begun would be an end that is lost
            try:
                await trio.to_thread.run_sync(spool.save, self._folder, end)
            except OSError as error:
                log.warning("spool file not written", run_id=end.run_id, reason=str(error))
                return False
        log.warning("run end spooled", run_id=end.run_id)
        return True

    async def _leave_nothing(self) -> None:
        """The last moment of the process: stores what the store takes now, and spools the rest."""
        try:
            await self._store_all()
        except StoreFailed as error:
            log.warning("run ends left", in_memory=len(self._waiting), reason=str(error))
        while self._waiting:
            end = self._waiting[0]
            if not await self._spool(end):
                log.error("run end lost", run_id=end.run_id, status=end.status.value)
            self._forget(end)


@asynccontextmanager
async def open_ends(runs: Runs, logs: Logs, folder: Path, max_bytes: int = MEMORY_BYTES) -> AsyncIterator[Ends]:
    """What a process before left in the spool `folder` is stored before it yields: before those runs are closed as abandoned."""
    ends = Ends(runs, logs, folder, max_bytes)
    try:
        await ends._store_all()
    except StoreFailed as error:
        log.warning("run ends waiting", in_memory=0, retry_in_s=FIRST_DELAY_S, reason=str(error))
        ends._work.set()
    try:
        yield ends
    finally:
        with trio.CancelScope(shield=True):
            await ends._leave_nothing()


def _size(end: End) -> int:
    return END_BYTES + sum(sys.getsizeof(text) for text in (end.result, *(entry.content for entry in end.logs)))
