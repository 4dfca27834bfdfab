"""The daily deletion of runs and logs that are older than the retention: without it a disk fills."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, time, timedelta, tzinfo

import msgspec
import structlog
import trio

from appliance import entities
from appliance.coordination.interface import Locks
from appliance.errors import StoreFailed
from appliance.storage.interface import Storage

BATCH = 1000
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 300.0
# Trio's clock stands still while the host is suspended, and knows nothing of a clock that is set: look again this often.
LONGEST_SLEEP_S = 600.0

log = structlog.get_logger()


class Cleaning(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of thing that is cleaned; `lock` is the name that the running deployments use in Redis."""

    what: str
    lock: str
    delete_older: Callable[[datetime, int], Awaitable[int]]


def cleanings(storage: Storage) -> tuple[Cleaning, Cleaning]:
    return (
        Cleaning(what="runs", lock="coderuncleaner", delete_older=storage.runs.delete_older),
        Cleaning(what="logs", lock="codelogcleaner", delete_older=storage.logs.delete_older),
    )


def next_at(now: datetime, schedule_time: time, zone: tzinfo | None = None) -> datetime:
    """The first moment after `now`, in UTC, at which a clock in `zone` (None: the host's) shows `schedule_time`.

    Once a day whatever the clocks do: a time that a day has twice counts the first time; one that it skips, by as much later.
    """
    today = now.astimezone(zone).date()
    days = (today + timedelta(days=later) for later in range(-1, 3))  # a zone may skip a whole day
    moments = (datetime.combine(day, schedule_time, tzinfo=zone).astimezone(UTC) for day in days)
    return min(moment for moment in moments if moment > now)


async def clean_batch(cleaning: Cleaning, before: datetime) -> bool:
    """Deletes at most 1000, fewer when they are large; says whether there may be more."""
    return await cleaning.delete_older(before, BATCH) > 0


async def clean(cleaning: Cleaning, locks: Locks, before: datetime) -> None:
    """Deletes all that is older, unless another instance is at it. Raises `StoreFailed`."""
    async with locks.try_hold(cleaning.lock) as held:
        if not held:
            log.info("cleaning skipped", what=cleaning.what, reason="another instance is cleaning")
            return
        batches = 0
        while await clean_batch(cleaning, before):
            batches += 1
        log.info("cleaned", what=cleaning.what, before=before.isoformat(), batches=batches)


async def clean_daily(
    cleaning: Cleaning,
    locks: Locks,
    schedule_time: time,
    retention: timedelta,
    clock: Callable[[], datetime] = entities.now,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    task_status.started()
    while True:
        await _sleep_until(next_at(clock(), schedule_time), clock)
        await _clean_in_the_end(cleaning, locks, clock() - retention)


async def _clean_in_the_end(cleaning: Cleaning, locks: Locks, before: datetime) -> None:
    delay = FIRST_DELAY_S
    while True:
        try:
            return await clean(cleaning, locks, before)
        except StoreFailed as error:
            log.warning("cleaning failed", what=cleaning.what, retry_in_s=delay, reason=str(error))
        await trio.sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY_S)


async def _sleep_until(moment: datetime, clock: Callable[[], datetime]) -> None:
    while (left := (moment - clock()).total_seconds()) > 0:  # noqa: ASYNC110 - no event tells that the clock was set
        await trio.sleep(min(left, LONGEST_SLEEP_S))
