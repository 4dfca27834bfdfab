"""The threads that read, beside the writer: in WAL mode neither waits for the other. Each has a connection of its own."""

import sqlite3
import threading
from typing import Any

from appliance.storage.sqlite.failures import translated
from appliance.storage.sqlite.threads import Inbox, Piece

READERS = 3  # a slow list holds one; look-ups by key (0.01 ms) go on in the others


def start_reader(connection: sqlite3.Connection, inbox: Inbox) -> threading.Thread:
    thread = threading.Thread(target=_read, args=(connection, inbox), name="sqlite reader", daemon=True)
    thread.start()
    return thread


def _read(connection: sqlite3.Connection, inbox: Inbox) -> None:
    while (piece := inbox.queue.get()) is not None:
        _do(connection, piece)
        inbox.wake((piece,))


def _do(connection: sqlite3.Connection, piece: Piece[Any]) -> None:
    """All statements of one piece see the same state of the database."""
    try:
        connection.execute("BEGIN")
        try:
            piece.value = piece.work(connection)
        finally:
            connection.execute("ROLLBACK")
    except BaseException as error:
        piece.error = translated(error)
