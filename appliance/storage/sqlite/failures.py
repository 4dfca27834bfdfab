"""What an error of SQLite means to a caller: the store can't do its work now, the row exists already, or a defect of ours."""

import sqlite3

from appliance.errors import Conflict, StoreFailed

# Primary result codes (the low byte) after which nothing is wrong with the statement, only with the disk, the file or a lock.
_STORE_CODES = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
_EXISTS_CODES = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})


def code_of(error: BaseException) -> int:
    """The extended result code, 0 when SQLite had no part in it."""
    return getattr(error, "sqlite_errorcode", 0)


def is_of_store(error: BaseException) -> bool:
    return (code_of(error) & 0xFF) in _STORE_CODES


def translated(error: BaseException) -> BaseException:
    """The error that the caller gets; a new one for each caller, since a raised one collects tracebacks."""
    if is_of_store(error):
        return StoreFailed(f"the database can't be used now: {error} ({getattr(error, 'sqlite_errorname', 'unknown')})")
    if code_of(error) in _EXISTS_CODES:
        columns = str(error).partition(": ")[2].split(", ")
        return Conflict(f"exists already: {', '.join(column.partition('.')[2] for column in columns)}")
    return error
