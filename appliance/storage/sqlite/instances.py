"""Instances in SQLite."""

from datetime import datetime

from appliance.storage.sqlite.database import Database
from appliance.storage.sqlite.rows import micros

BEAT = """
INSERT INTO instances (id, host, seen_at) VALUES (:id, :host, :at)
ON CONFLICT (id) DO UPDATE SET host = :host, seen_at = :at
"""
FORGET = "DELETE FROM instances WHERE id = :id"


class SqliteInstances:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, instance: str, host: str, at: datetime) -> None:
        await self._database.execute(BEAT, {"id": instance, "host": host, "at": micros(at)})

    async def forget(self, instance: str) -> None:
        await self._database.execute(FORGET, {"id": instance})
