"""The database file: opened once, by one process, with one connection that writes, a few that read, and the loop's own.

The loop's thread reads and writes what each call needs and is small, without a lock to wait for: a trip to a thread and back
costs ten times as much. What it writes there isn't forced to the disk (docs/decisions/0022): no end of the process takes it
away; a power cut may take what is younger than the last transaction of the writing thread.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

from appliance.storage import CannotOpen
from appliance.storage.sqlite import migrations
from appliance.storage.sqlite.threads import Inbox, Work
from appliance.storage.sqlite.writer import BUSY_MS

T = TypeVar("T")
Params = Mapping[str, object]

FILE = "codeactions.db"
LOCK_FILE = "lock"
# A deletion holds up all other writes, so it ends its transaction after this time, and returns with what it has done.
STEP_SECONDS = 0.05
DELETE_ROWS = 4  # a statement: 1000 small rows take 15 ms by fours, but one of 10 MiB takes 35
VACUUM_PAGES = 256
SMALL_BYTES = 64 * 1024  # what the loop's thread writes itself: more would hold it up
SETTLE_SECONDS = 0.25  # while runs are recorded the writing thread forces them to the disk so often, and keeps their log short
KEPT_FREE_PAGES = 16 * 1024  # 64 MiB that the next day's rows will take

PRAGMAS = f"""
PRAGMA busy_timeout = {BUSY_MS};
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA cache_size = -8000;
PRAGMA temp_store = MEMORY;
"""
# auto_vacuum can only be chosen before the first table: it lets the file shrink without a rewrite of the whole.
# The limit keeps one large write-ahead log (10 MiB results) from staying on the disk for ever.
WRITER_PRAGMAS = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA journal_size_limit = 67108864;
"""
HERE_PRAGMAS = """
PRAGMA busy_timeout = 0;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 0;
"""
TOUCH = "UPDATE instances SET seen_at = seen_at"  # a page goes to the log though nothing changes


class Database:
    """What the repositories work with: statements with named parameters, in the reading threads or in the writing one."""

    def __init__(self, here: sqlite3.Connection, reads: Inbox, writes: Inbox) -> None:
        self._here = here
        self._reads = reads
        self._writes = writes
        self._settles_at = 0.0

    async def read(self, work: Work[T]) -> T:
        """Several statements on one state of the database, in one trip to a thread."""
        return await self._reads.do(work)

    async def write(self, work: Work[T]) -> T:
        """Stored when it returns: all statements of `work`, or none. `work` may be run twice, the first time undone."""
        return await self._writes.do(work)

    async def all(self, make: Callable[[sqlite3.Row], T], sql: str, params: Params) -> list[T]:
        return await self._reads.do(lambda connection: [make(row) for row in connection.execute(sql, params)])

    async def first(self, make: Callable[[sqlite3.Row], T], sql: str, params: Params) -> T | None:
        def work(connection: sqlite3.Connection) -> T | None:
            row = connection.execute(sql, params).fetchone()
            return None if row is None else make(row)

        return await self._reads.do(work)

    async def small(self, make: Callable[[sqlite3.Row], T], sql: str, params: Params) -> T | None:
        """As `first`, for one row by its key that every call needs: in the loop's thread, where it takes 0.03 ms, and not 0.3."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            row = self._here.execute(sql, params).fetchone()
        except sqlite3.Error:  # a thread can wait for a lock, and says what there is to say
            return await self.first(make, sql, params)
        return None if row is None else make(row)

    async def record(self, sql: str, *rows: Params) -> int:
        """As `execute`, for each of `rows`, all or none: what a run says of itself, which is written twice or more in every call.
        Small rows are written in the loop's thread where nobody holds the lock.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._writes.is_closed and sum(map(_size, rows)) <= SMALL_BYTES:
            self._settle_in_time()
            with suppress(sqlite3.Error):  # the thread can wait for a lock, and says what there is to say
                return _execute_all(self._here, sql, rows)
        return await self._writes.do(lambda connection: connection.executemany(sql, rows).rowcount)

    def _settle_in_time(self) -> None:
        if (now := time.monotonic()) >= self._settles_at:
            self._settles_at = now + SETTLE_SECONDS
            self._writes.post(lambda connection: connection.execute(TOUCH))

    async def execute(self, sql: str, params: Params) -> int:
        """Writes by one statement; how many rows it changed. `Conflict` when a unique column has the value already."""
        return await self._writes.do(lambda connection: connection.execute(sql, params).rowcount)

    async def delete_older(self, sql: str, params: Params, limit: int) -> int:
        """Deletes up to `limit` rows; fewer when they are large. When none is left the file is shrunk: else the disk would look
        full, and bodies be cut, long after the rows that filled it are gone."""
        deleted = await self.write(lambda connection: _delete_in_steps(connection, sql, params, limit))
        while deleted == 0 and await self.write(_give_back):
            pass
        return deleted


def connect(path: Path) -> sqlite3.Connection:
    """A connection that begins no transaction of its own accord; used by one thread at a time, not the one that opened it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.row_factory = sqlite3.Row
    connection.executescript(PRAGMAS)
    return connection


def open_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes, to a database that is there and of our version. Raises `CannotOpen`."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # SQLite would let everybody read it
        connection = connect(path)
        connection.executescript(WRITER_PRAGMAS)
        migrations.apply(connection)
    except (OSError, sqlite3.Error) as error:
        raise CannotOpen(f"the database {path} can't be opened: {error}") from error
    except migrations.NewerSchema as error:
        raise CannotOpen(f"the database {path} {error}") from error
    return connection


def open_here(path: Path) -> sqlite3.Connection:
    """The loop's own: it waits neither for a lock nor for the disk."""
    connection = connect(path)
    connection.executescript(HERE_PRAGMAS)
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Holds the state directory for this process; the kernel gives it back however the process ends. Raises `CannotOpen`."""
    path = state_dir / LOCK_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotOpen(f"the state directory {state_dir} can't be used by the user {os.geteuid()}: {error.strerror}") from error
    try:
        _take(descriptor, state_dir)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, state_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        raise CannotOpen(f"the state directory {state_dir} is in use by another process (pid {holder})") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _delete_in_steps(connection: sqlite3.Connection, sql: str, params: Params, limit: int) -> int:
    deleted, enough = 0, time.monotonic() + STEP_SECONDS
    while deleted < limit and time.monotonic() < enough:
        step = connection.execute(sql, {**params, "limit": min(DELETE_ROWS, limit - deleted)}).rowcount
        deleted += step
        if step == 0:
            break
    return deleted


def _give_back(connection: sqlite3.Connection) -> bool:
    """Shrinks the file by some pages while half of it is empty; says whether there is more to do."""
    enough = time.monotonic() + STEP_SECONDS
    while time.monotonic() < enough:
        free, pages = _number(connection, "PRAGMA freelist_count"), _number(connection, "PRAGMA page_count")
        if free < max(KEPT_FREE_PAGES, pages // 2):
            return False
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    return True


def _execute_all(connection: sqlite3.Connection, sql: str, rows: Sequence[Params]) -> int:
    if len(rows) == 1:  # a transaction by itself
        return connection.execute(sql, rows[0]).rowcount
    connection.execute("BEGIN IMMEDIATE")
    try:
        changed = connection.executemany(sql, rows).rowcount
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have undone it already
            connection.execute("ROLLBACK")
        raise
    return changed


def _size(row: Params) -> int:
    """Characters, which are bytes nearly."""
    return sum(len(value) for value in row.values() if isinstance(value, str))


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(pragma).fetchone()[0])
