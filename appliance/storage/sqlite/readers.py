"""The threads that read, beside the writer: in WAL mode neither waits for the other. Each has a connection of its own."""

import sqlite3
from typing import Any

from appliance.storage.sqlite.failures import translated
from appliance.storage.sqlite.threads import Inbox, Piece

READERS = 3  # a slow list holds one; look-ups by key (0.01 ms) go on in the others


def read_pieces(connection: sqlite3.Connection, inbox: Inbox) -> None:
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
            if connection.in_transaction:  # an I/O error has ended it already
                connection.execute("ROLLBACK")
    except BaseException as error:  # noqa: BLE001 - it is raised in the task that waits
        piece.error = translated(error)
