"""The store of the six entities: `interface` is what it promises, and `open_storage` opens the backend asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import CannotStart

if TYPE_CHECKING:
    from appliance.storage.interface import Storage


class CannotOpen(CannotStart):
    """The store can't be opened at start; the message is one line that says which and why, for the person who starts it."""


@asynccontextmanager
async def open_storage(db_type: str, state_dir: Path) -> "AsyncIterator[Storage]":
    """Yields the store, ready. Raises `CannotOpen`. Backends are imported here: only the one asked for costs start-up time."""
    if db_type == "sqlite":
        from appliance.storage.sqlite import open_sqlite

        async with open_sqlite(state_dir) as storage:
            yield storage
    elif db_type == "memory":
        from appliance.storage.memory import MemoryStorage

        yield MemoryStorage()
    else:
        raise CannotOpen(f"there is no store of type {db_type!r}")
