"""Runs in SQLite."""

import sqlite3
from datetime import datetime
from typing import Any

from appliance.entities import CodeRun, RunStatus
from appliance.errors import NotFound
from appliance.storage.abandoned import interrupted, owner_of
from appliance.storage.interface import RunPage, RunQuery
from appliance.storage.paging import page_of
from appliance.storage.sqlite.database import Database
from appliance.storage.sqlite.rows import extra_of, json_of, micros, run_of, run_params

CREATE = """
INSERT INTO coderuns
    (id, mongo_object_id, code_id, code_mongo_id, status, created_at, updated_at, extra, params, headers, result, body)
VALUES
    (:id, :mongo_object_id, :code_id, :code_mongo_id, :status, :created_at, :updated_at,
     :extra, :params, :headers, :result, :body)
"""
GET = "SELECT * FROM coderuns WHERE id = :key OR mongo_object_id = :key"
PAGE = """
SELECT * FROM coderuns
WHERE code_id = :code_id AND created_at BETWEEN :after AND :before AND (created_at, id) < (:older_at, :older_id)
ORDER BY created_at DESC, id DESC LIMIT :limit
"""
START = """
UPDATE coderuns SET status = 'started', updated_at = :at WHERE (id = :key OR mongo_object_id = :key) AND status = 'queued'
"""
FINISH = """
UPDATE coderuns SET status = :status, result = :result, extra = :extra, updated_at = :at
WHERE (id = :key OR mongo_object_id = :key) AND status IN ('queued', 'started')
"""
OPEN = "SELECT id, extra FROM coderuns WHERE status IN ('queued', 'started')"
BEATING = "SELECT id FROM instances WHERE seen_at >= :since"
CLOSE = "UPDATE coderuns SET status = 'failed', extra = :extra, updated_at = :at WHERE id = :id"
DELETE_OLDER = """
DELETE FROM coderuns WHERE rowid IN (SELECT rowid FROM coderuns WHERE created_at < :before ORDER BY created_at LIMIT :limit)
"""

_FIRST, _LAST = -(2**63), 2**63 - 1  # no time is outside them


class SqliteRuns:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, run: CodeRun) -> None:
        await self._database.record(CREATE, run_params(run))

    async def get(self, run_id: str) -> CodeRun:
        run = await self._database.first(run_of, GET, {"key": run_id})
        if run is None:
            raise NotFound("run", run_id)
        return run

    async def page(self, query: RunQuery) -> RunPage:
        older_at = _LAST if query.older_than is None else micros(query.older_than[0])
        before = _LAST if query.before is None else micros(query.before)
        params = {
            "code_id": query.code_id,
            "after": _FIRST if query.after is None else micros(query.after),
            "before": min(before, older_at),  # where the index is entered: a later page isn't slower than the first
            "older_at": older_at,
            "older_id": "" if query.older_than is None else query.older_than[1],
            "limit": query.limit + 1,  # one more than is shown tells whether there are more
        }

        def work(connection: sqlite3.Connection) -> RunPage:
            return page_of((run_of(row) for row in connection.execute(PAGE, params)), query.limit)

        return await self._database.read(work)

    async def start(self, run_id: str, at: datetime) -> None:
        await self._database.record(START, {"key": run_id, "at": micros(at)})

    async def finish(self, run_id: str, status: RunStatus, result: str, extra: dict[str, Any], at: datetime) -> bool:
        params = {"key": run_id, "status": status.value, "result": result, "extra": json_of(extra), "at": micros(at)}
        return await self._database.record(FINISH, params) > 0

    async def close_abandoned(self, instance: str, not_seen_since: datetime, at: datetime) -> list[str]:
        def work(connection: sqlite3.Connection) -> list[str]:
            alive = {row["id"] for row in connection.execute(BEATING, {"since": micros(not_seen_since)})} | {instance, None}
            kept = {row["id"]: extra_of(row) for row in connection.execute(OPEN)}
            abandoned = {run_id: interrupted(extra) for run_id, extra in kept.items() if owner_of(extra) not in alive}
            for run_id, extra in abandoned.items():
                connection.execute(CLOSE, {"id": run_id, "extra": json_of(extra), "at": micros(at)})
            return list(abandoned)

        return await self._database.write(work)

    async def delete_older(self, before: datetime, limit: int) -> int:
        return await self._database.delete_older(DELETE_OLDER, {"before": micros(before)}, limit)
