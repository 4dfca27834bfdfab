"""Writes runs, eight callers at a time, and says the id of each that was acknowledged: what test_sqlite kills."""

import sys
from pathlib import Path

import trio

from appliance.storage import open_storage
from appliance.storage.interface import Storage
from tests.storage.builders import a_log, a_run


async def write_forever(storage: Storage) -> None:
    while True:
        run = a_run(body="x" * 3000)
        await storage.runs.create(run)
        await storage.logs.append([a_log(id=run.id, run_id=run.id)])
        sys.stdout.write(run.id + "\n")
        sys.stdout.flush()


async def main() -> None:
    async with open_storage("sqlite", Path(sys.argv[1])) as storage, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(write_forever, storage)


trio.run(main)
