"""Which appliances are alive, and what becomes of the runs of those that aren't."""

import socket
from datetime import timedelta

import structlog
import trio

from appliance.entities import now
from appliance.errors import StoreFailed
from appliance.storage.interface import Storage

log = structlog.get_logger()

BEAT_SECONDS = 10
DEAD_AFTER = timedelta(seconds=60)
_BEATS_A_SEARCH = 6


async def keep_alive(storage: Storage, instance: str, task_status: trio.TaskStatus[None]) -> None:
    """Beats every ten seconds, and once a minute closes the runs of instances that have stopped beating."""
    await storage.instances.beat(instance, socket.gethostname(), now())
    task_status.started()
    beats = 0
    while True:
        await trio.sleep(BEAT_SECONDS)
        beats += 1
        try:
            await storage.instances.beat(instance, socket.gethostname(), now())
            if beats % _BEATS_A_SEARCH == 0:
                await close_abandoned(storage, instance)
        except StoreFailed as error:
            log.warning("heartbeat not stored", reason=str(error))


async def close_abandoned(storage: Storage, instance: str) -> None:
    """Where nobody else can have the store open, every other instance is dead, however lately it has beaten."""
    at = now()
    closed = await storage.runs.close_abandoned(instance, at if storage.exclusive else at - DEAD_AFTER, at)
    if closed:
        log.warning("runs of a dead instance closed as interrupted", runs=len(closed))
