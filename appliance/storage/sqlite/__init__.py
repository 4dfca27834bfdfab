"""The embedded store: one SQLite file in the state directory.

One thread writes, with group commit (`writer`); a few read beside it (`readers`); the loop only waits for them, but for what
every call needs and is small, which it reads and writes itself (`database`). An exclusive lock on the state directory keeps a
second process out.
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import trio

from appliance.storage.sqlite.codes import SqliteCodes
from appliance.storage.sqlite.database import FILE, TOUCH, Database, open_here, open_reader, open_writer, state_lock
from appliance.storage.sqlite.instances import SqliteInstances
from appliance.storage.sqlite.libs import SqliteLibs
from appliance.storage.sqlite.logs import SqliteLogs
from appliance.storage.sqlite.permissions import SqlitePermissions
from appliance.storage.sqlite.projects import SqliteProjects
from appliance.storage.sqlite.readers import READERS, read_pieces
from appliance.storage.sqlite.runs import SqliteRuns
from appliance.storage.sqlite.threads import Inbox, Join, start_thread
from appliance.storage.sqlite.writer import write_pieces


class SqliteStorage(msgspec.Struct, frozen=True):
    database: Database
    codes: SqliteCodes
    runs: SqliteRuns
    instances: SqliteInstances
    logs: SqliteLogs
    libs: SqliteLibs
    permissions: SqlitePermissions
    projects: SqliteProjects
    exclusive: bool = True

    async def check(self) -> None:
        """Through both kinds of thread, with a row that is really written: a database that is locked doesn't answer, nor one
        that can't take another page.
        """
        await self.database.read(lambda connection: connection.execute("SELECT count(*) FROM instances").fetchone())
        await self.database.execute(TOUCH, {})


@asynccontextmanager
async def open_sqlite(state_dir: Path) -> AsyncIterator[SqliteStorage]:
    with ExitStack() as held:
        here, *connections = await trio.to_thread.run_sync(_open, state_dir, held)
        reads, writes = Inbox(READERS), Inbox(1)
        joins = [start_thread("sqlite writer", write_pieces, connections[0], writes)]
        joins += [start_thread("sqlite reader", read_pieces, connection, reads) for connection in connections[1:]]
        try:
            yield _storage(Database(here, reads, writes))
        finally:
            reads.close()
            writes.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_finish, joins, [*connections, here])


def _open(state_dir: Path, held: ExitStack) -> list[sqlite3.Connection]:
    held.enter_context(state_lock(state_dir))
    path = state_dir / FILE
    writer = open_writer(path)
    return [open_here(path), writer, *(open_reader(path) for _ in range(READERS))]


def _finish(joins: list[Join], connections: list[sqlite3.Connection]) -> None:
    """What was handed in is still done; then the last connection to close, the writer's, empties the write-ahead log."""
    for join in joins:
        join()
    for connection in reversed(connections):
        connection.close()


def _storage(database: Database) -> SqliteStorage:
    return SqliteStorage(
        database,
        SqliteCodes(database),
        SqliteRuns(database),
        SqliteInstances(database),
        SqliteLogs(database),
        SqliteLibs(database),
        SqlitePermissions(database),
        SqliteProjects(database),
    )
