"""The one thread that writes: it takes what waits, commits once, then wakes every caller of the group.

A commit costs an fsync (0.1 to some milliseconds); under load many callers share one. Each caller's statements run in a savepoint
of their own, so that one's refusal (a row that exists, a bound that is broken) undoes nothing of the others. When it is the store
that fails, SQLite may have rolled back the whole transaction: the group is undone and each piece is tried alone, so that a result
too big for what is left of the disk doesn't take small ones with it; a piece that fails alone gets `StoreFailed`.
"""

import contextlib
import queue
import sqlite3
import time
from typing import Any

from appliance.storage.sqlite.failures import is_of_store, translated
from appliance.storage.sqlite.threads import Inbox, Piece

# Only a person's sqlite3 shell or a copy in progress can hold our lock, since other processes of ours are kept out.
BUSY_MS = 1000
GROUP_PIECES = 256  # a group is undone and tried again one by one when the store fails: bound that work
SHORTEN_SECONDS = 0.25
GROUP_SECONDS = 0.02  # large rows fill a group's time sooner than its number: those behind them wait no longer than this more


def write_pieces(connection: sqlite3.Connection, inbox: Inbox) -> None:
    shorten_at = 0.0
    while (first := inbox.queue.get()) is not None:
        group = [first]
        try:
            _commit_with_followers(connection, inbox, group)
        except BaseException as error:  # noqa: BLE001 - it is raised in the tasks that wait
            _undo(connection)
            _each_alone(connection, group, error)
        inbox.wake(group)
        if time.monotonic() >= shorten_at:
            _shorten(connection)
            shorten_at = time.monotonic() + SHORTEN_SECONDS


def _commit_with_followers(connection: sqlite3.Connection, inbox: Inbox, group: list[Piece[Any]]) -> None:
    """Does group[0], and what comes in meanwhile, which it adds to the group; commits."""
    enough = time.monotonic() + GROUP_SECONDS
    connection.execute("BEGIN IMMEDIATE")
    _do(connection, group[0])
    while len(group) < GROUP_PIECES and time.monotonic() < enough and (piece := _next(inbox)) is not None:
        group.append(piece)
        _do(connection, piece)
    connection.execute("COMMIT")


def _next(inbox: Inbox) -> Piece[Any] | None:
    try:
        piece = inbox.queue.get_nowait()
    except queue.Empty:
        return None
    if piece is None:
        inbox.queue.put(None)  # the end, seen early: the outer loop is to meet it
    return piece


def _do(connection: sqlite3.Connection, piece: Piece[Any]) -> None:
    """Raises only what is the store's; what is the piece's own stays with it, and its statements are undone."""
    connection.execute("SAVEPOINT piece")
    try:
        piece.value, piece.error = piece.work(connection), None
    except BaseException as error:
        if is_of_store(error):
            raise
        connection.execute("ROLLBACK TO piece")
        piece.error = translated(error)
    connection.execute("RELEASE piece")


def _each_alone(connection: sqlite3.Connection, group: list[Piece[Any]], error: BaseException) -> None:
    """Of a group of one nothing more can be tried; it is of one, too, when not even `BEGIN` was possible."""
    if len(group) == 1:
        group[0].error = translated(error)
        return
    for piece in group:
        try:
            connection.execute("BEGIN IMMEDIATE")
            _do(connection, piece)
            connection.execute("COMMIT")
        except BaseException as own:  # noqa: BLE001
            _undo(connection)
            piece.error = translated(own)


def _shorten(connection: sqlite3.Connection) -> None:
    """The log ahead of the file begins anew. SQLite's own checkpoints don't achieve that while the loop's thread goes on writing:
    this one keeps it from that. Where somebody reads or writes just now, the next one is as good."""
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")


def _undo(connection: sqlite3.Connection) -> None:
    """Never raises: the thread would end and leave its callers waiting; a transaction that stays open fails the next one."""
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
