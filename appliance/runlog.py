"""The log of one run, stored while it goes on: in batches, so that a chatty run costs few commits and a killed one loses
nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio

from appliance.entities import CodeLog, new_id
from appliance.errors import StoreFailed
from appliance.receipts import kept_text
from appliance.runner.outcome import LogEntry
from appliance.storage.interface import Logs

log = structlog.get_logger()

BATCH = 64
BATCH_SECONDS = 0.1
MOST_WAITING = 512  # then the action waits for the store


class RunLog:
    """`add` takes entries; what could not be stored is in `left` when the block of `open_run_log` has ended."""

    def __init__(self, logs: Logs, run_id: str, code_id: str, nursery: trio.Nursery) -> None:
        self.left: list[CodeLog] = []
        self._nursery = nursery
        self._is_storing = False
        self._logs = logs
        self._run_id = run_id
        self._code_id = code_id
        self._added = trio.Event()
        self._full = trio.Event()
        self._stored = trio.Event()

    async def add(self, entry: LogEntry) -> None:
        self.left.append(
            CodeLog(
                id=new_id(),
                run_id=self._run_id,
                code_id=self._code_id,
                type=entry.type,
                content=kept_text(entry.content),
                created_at=entry.at,
                updated_at=entry.at,
            )
        )
        self._added.set()
        if not self._is_storing:
            self._is_storing = True
            self._nursery.start_soon(self._store, name=f"log of {self._run_id}")
        if len(self.left) >= BATCH:
            self._full.set()
        while len(self.left) >= MOST_WAITING:
            await self._stored.wait()

    async def _store(self) -> None:
        """Stores batch after batch, until cancelled. What was cancelled on its way is stored again: entries have ids."""
        while True:
            await self._added.wait()
            with trio.move_on_after(BATCH_SECONDS):
                await self._full.wait()
            await self._store_batch()

    async def _store_batch(self) -> None:
        batch = self.left[:MOST_WAITING]
        try:
            await self._logs.append(batch)
        except StoreFailed as error:
            log.warning("log entries not stored yet", run_id=self._run_id, entries=len(batch), reason=str(error))
            await trio.sleep(BATCH_SECONDS)
            return
        del self.left[: len(batch)]
        self._stored.set()
        self._stored = trio.Event()
        self._full = trio.Event()
        if not self.left:
            self._added = trio.Event()


@asynccontextmanager
async def open_run_log(logs: Logs, run_id: str, code_id: str) -> AsyncIterator[RunLog]:
    async with trio.open_nursery() as nursery:
        yield RunLog(logs, run_id, code_id, nursery)
        nursery.cancel_scope.cancel()
