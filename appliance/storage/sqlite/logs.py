"""Logs in SQLite."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from appliance.entities import CodeLog
from appliance.errors import NotFound
from appliance.storage.interface import LogPage
from appliance.storage.sqlite.database import Database
from appliance.storage.sqlite.rows import log_of, log_params, micros

APPEND = """
INSERT INTO codelogs (id, run_id, code_id, type, created_at, updated_at, content)
VALUES (:id, :run_id, :code_id, :type, :created_at, :updated_at, :content)
ON CONFLICT (id) DO NOTHING
"""
GET = "SELECT * FROM codelogs WHERE id = :id"
MATCHING = {  # by which of run and code are given: each has an index of its own
    (True, False): "FROM codelogs WHERE run_id = :run_id",
    (False, True): "FROM codelogs WHERE code_id = :code_id",
    (True, True): "FROM codelogs WHERE run_id = :run_id AND +code_id = :code_id",
    (False, False): "FROM codelogs",
}
COUNT = "SELECT count(*) {matching}"
PAGE = "SELECT * {matching} ORDER BY created_at DESC, place DESC LIMIT :limit OFFSET :offset"
DELETE_OLDER = """
DELETE FROM codelogs WHERE place IN (SELECT place FROM codelogs WHERE created_at < :before ORDER BY created_at LIMIT :limit)
"""


class SqliteLogs:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entries: Sequence[CodeLog]) -> None:
        await self._database.record(APPEND, *(log_params(entry) for entry in entries))

    async def get(self, log_id: str) -> CodeLog:
        entry = await self._database.first(log_of, GET, {"id": log_id})
        if entry is None:
            raise NotFound("log", log_id)
        return entry

    async def page(self, run_id: str | None, code_id: str | None, page: int, per_page: int) -> LogPage:
        matching = MATCHING[run_id is not None, code_id is not None]
        given = {"run_id": run_id, "code_id": code_id, "limit": per_page, "offset": (page - 1) * per_page}

        def work(connection: sqlite3.Connection) -> LogPage:
            total = connection.execute(COUNT.format(matching=matching), given).fetchone()[0]
            rows = connection.execute(PAGE.format(matching=matching), given)
            return LogPage(entries=[log_of(row) for row in rows], total=total)

        return await self._database.read(work)

    async def delete_older(self, before: datetime, limit: int) -> int:
        return await self._database.delete_older(DELETE_OLDER, {"before": micros(before)}, limit)
