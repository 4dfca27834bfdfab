import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
import structlog.testing
import trio

from appliance.cleaning import Cleaning, clean, clean_batch, clean_daily, cleanings, next_at
from appliance.coordination.interface import Locks
from appliance.coordination.local import LocalLocks
from appliance.entities import now
from appliance.storage import open_storage
from appliance.storage.interface import RunQuery, Storage
from tests.storage.builders import a_log, a_run

ONE = time(1, 0)
HALF_PAST_TWO = time(2, 30)
BERLIN, APIA = ZoneInfo("Europe/Berlin"), ZoneInfo("Pacific/Apia")
MONTH = timedelta(days=30)
OLD = now() - MONTH - timedelta(minutes=1)
RECENT = now() - MONTH + timedelta(hours=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage("sqlite", tmp_path) as opened:
        yield opened


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    connection = sqlite3.connect(state_dir / "codeactions.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def an_hour_of_each(storage: Storage) -> None:
    await storage.runs.create(a_run(created_at=OLD))
    await storage.runs.create(a_run(created_at=RECENT))
    await storage.logs.append([a_log(created_at=OLD), a_log(created_at=RECENT)])


async def left(storage: Storage) -> tuple[list[datetime], list[datetime]]:
    runs = (await storage.runs.page(RunQuery(code_id="code-1"))).runs
    logs = await storage.logs.page(None, "code-1", 1, 10)
    return [run.created_at for run in runs], [entry.created_at for entry in logs.entries]


def a_moment_before(schedule_time: time) -> Callable[[], datetime]:
    """A clock that runs, and that shows 50 ms before that time now."""
    shift = next_at(now(), schedule_time) - timedelta(milliseconds=50) - now()
    return lambda: now() + shift


# When


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-03-10 00:59:59", "2026-03-10 01:00"),
        ("2026-03-10 01:00:00", "2026-03-11 01:00"),
        ("2026-03-10 23:00:00", "2026-03-11 01:00"),
        ("2026-12-31 02:00:00", "2027-01-01 01:00"),
    ],
)
def test_the_next_cleaning_is_today_or_tomorrow_at_the_scheduled_time(moment: str, expected: str) -> None:
    assert next_at(utc(moment), ONE, UTC) == utc(expected)


def test_the_scheduled_time_is_that_of_the_zone() -> None:
    assert next_at(utc("2026-01-10 12:00"), ONE, BERLIN) == utc("2026-01-11 00:00")
    assert next_at(utc("2026-07-10 12:00"), ONE, BERLIN) == utc("2026-07-10 23:00")


def test_a_time_that_a_day_skips_comes_an_hour_later_by_the_clock() -> None:
    first = next_at(utc("2026-03-28 12:00"), HALF_PAST_TWO, BERLIN)
    assert first.astimezone(BERLIN).isoformat() == "2026-03-29T03:30:00+02:00"
    assert next_at(first, HALF_PAST_TWO, BERLIN) == utc("2026-03-30 00:30")


def test_a_time_that_a_day_has_twice_counts_once() -> None:
    first = next_at(utc("2026-10-24 12:00"), HALF_PAST_TWO, BERLIN)
    assert first == utc("2026-10-25 00:30")
    assert next_at(first, HALF_PAST_TWO, BERLIN) == utc("2026-10-26 01:30")


def test_a_day_that_a_zone_leaves_out_is_no_trouble() -> None:
    assert next_at(utc("2011-12-29 20:00"), ONE, APIA).astimezone(APIA).date().isoformat() == "2011-12-31"


def test_without_a_zone_the_hosts_counts() -> None:
    assert next_at(now(), ONE).astimezone().time() == ONE


# What


async def test_a_cleaning_deletes_the_old_runs_and_logs_and_nothing_else(storage: Storage) -> None:
    await an_hour_of_each(storage)
    for cleaning in cleanings(storage):
        await clean(cleaning, LocalLocks(), now() - MONTH)
    assert await left(storage) == ([RECENT], [RECENT])


async def test_one_batch_deletes_a_thousand_and_says_whether_there_may_be_more(storage: Storage) -> None:
    await storage.logs.append([a_log(created_at=OLD) for _ in range(1200)])
    _, logs = cleanings(storage)
    more = []
    for remaining in (200, 0, 0):
        more.append(await clean_batch(logs, now() - MONTH))
        assert (await storage.logs.page(None, "code-1", 1, 1)).total == remaining
    assert more == [True, True, False]


async def test_batches_go_on_until_none_is_left(storage: Storage) -> None:
    await storage.logs.append([a_log(created_at=OLD) for _ in range(2500)])
    _, logs = cleanings(storage)
    with structlog.testing.capture_logs() as said:
        await clean(logs, LocalLocks(), now() - MONTH)
    assert await left(storage) == ([], [])
    assert [(each["event"], each["batches"]) for each in said] == [("cleaned", 3)]


async def test_the_locks_are_those_of_the_running_deployments(storage: Storage) -> None:
    assert {cleaning.what: cleaning.lock for cleaning in cleanings(storage)} == {
        "runs": "coderuncleaner",
        "logs": "codelogcleaner",
    }


async def test_while_another_instance_cleans_this_one_skips_and_says_so(storage: Storage) -> None:
    await an_hour_of_each(storage)
    runs, logs = cleanings(storage)
    locks = LocalLocks()
    with structlog.testing.capture_logs() as said:
        async with locks.try_hold("coderuncleaner"):
            await clean(runs, locks, now() - MONTH)
            await clean(logs, locks, now() - MONTH)
    assert await left(storage) == ([RECENT, OLD], [RECENT])
    assert [(each["event"], each["what"]) for each in said] == [("cleaning skipped", "runs"), ("cleaned", "logs")]


# The service


def watched(cleaning: Cleaning, done: trio.Event) -> Cleaning:
    """The same, telling when there was nothing left."""

    async def delete_older(before: datetime, limit: int) -> int:
        deleted = await cleaning.delete_older(before, limit)
        if not deleted:
            done.set()
        return deleted

    return msgspec.structs.replace(cleaning, delete_older=delete_older)


async def cleaned_at_one(cleaning: Cleaning, locks: Locks, retention: timedelta = MONTH) -> None:
    done = trio.Event()
    service = partial(clean_daily, watched(cleaning, done), locks, ONE, retention, clock=a_moment_before(ONE))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(service)
            await done.wait()
            nursery.cancel_scope.cancel()


async def test_the_service_cleans_at_the_scheduled_time(storage: Storage) -> None:
    await storage.logs.append([a_log(created_at=OLD)])
    await cleaned_at_one(cleanings(storage)[1], LocalLocks())
    assert await left(storage) == ([], [])


async def test_a_store_that_fails_is_tried_again_and_doesnt_end_the_service(storage: Storage, tmp_path: Path) -> None:
    await storage.logs.append([a_log(created_at=OLD)])
    failed = trio.Event()

    async def delete_older(before: datetime, limit: int) -> int:
        if failed.is_set():
            return await storage.logs.delete_older(before, limit)
        failed.set()
        with locked(tmp_path):
            return await storage.logs.delete_older(before, limit)

    with structlog.testing.capture_logs() as said:
        await cleaned_at_one(Cleaning(what="logs", lock="codelogcleaner", delete_older=delete_older), LocalLocks())
    assert await left(storage) == ([], [])
    assert [each["event"] for each in said][:1] == ["cleaning failed"]
