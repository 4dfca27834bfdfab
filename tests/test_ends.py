import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog.testing
import trio

from appliance.disk import KEPT_BYTES
from appliance.ends import Ends, open_ends
from appliance.entities import CodeLog, CodeRun, RunStatus
from appliance.storage import open_storage
from appliance.storage.interface import Storage
from tests.storage.builders import AWKWARD, a_log, a_run, minutes

KIB = 1024
EXTRA = {"outcome": "completed", "usage": {"wall_ms": 1.5}}


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage("sqlite", tmp_path) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@contextmanager
def failing(folder: Path) -> Iterator[None]:
    """Somebody's sqlite3 shell keeps the database locked."""
    connection = sqlite3.connect(folder.parent / "codeactions.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def started(storage: Storage) -> CodeRun:
    run = a_run(extra={"instance": "me"})
    await storage.runs.create(run)
    return run


def logs_of(run: CodeRun, *words: str) -> list[CodeLog]:
    return [a_log(run_id=run.id, content=word) for word in words]


async def finish(ends: Ends, run: CodeRun, result: str = AWKWARD, *words: str) -> bool:
    return await ends.finish(run.id, RunStatus.COMPLETED, result, EXTRA, minutes(1), logs_of(run, *words))


async def stored(storage: Storage, run: CodeRun) -> tuple[RunStatus, str, list[str]]:
    found = await storage.runs.get(run.id)
    logs = await storage.logs.page(run.id, None, 1, 100)
    return found.status, found.result, [entry.content for entry in reversed(logs.entries)]


async def until(storage: Storage, run: CodeRun) -> None:
    """Waits for the end of the run to be stored, however often that takes asking."""
    with trio.fail_after(30):
        while (await storage.runs.get(run.id)).status is RunStatus.STARTED:  # noqa: ASYNC110 - the store has no event
            await trio.sleep(0.01)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@contextmanager
def heard() -> Iterator[Callable[[], list[object]]]:
    with structlog.testing.capture_logs() as said:
        yield lambda: [each["event"] for each in said]


async def test_an_end_is_stored_with_its_logs_before_finish_returns(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    async with open_ends(storage.runs, storage.logs, folder) as ends:
        assert await finish(ends, run, AWKWARD, "one", "two")
        assert await stored(storage, run) == (RunStatus.COMPLETED, AWKWARD, ["one", "two"])
    found = await storage.runs.get(run.id)
    assert (found.extra, found.updated_at) == (EXTRA, minutes(1))
    assert files_in(folder) == {}


async def test_an_end_that_the_store_cant_take_is_stored_once_it_can(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    with heard() as said:
        async with open_ends(storage.runs, storage.logs, folder) as ends, trio.open_nursery() as nursery:
            await nursery.start(ends.retry)
            with failing(folder):
                assert not await finish(ends, run, AWKWARD, "one", "two")
            await until(storage, run)
            nursery.cancel_scope.cancel()
    assert await stored(storage, run) == (RunStatus.COMPLETED, AWKWARD, ["one", "two"])
    assert said()[0] == "run end not stored yet"


async def test_while_ends_wait_a_caller_isnt_held_up_by_the_failing_store(storage: Storage, folder: Path) -> None:
    runs = [await started(storage) for _ in range(20)]
    async with open_ends(storage.runs, storage.logs, folder) as ends:
        with failing(folder):
            assert not await finish(ends, runs[0])
            with trio.fail_after(0.5):  # one busy timeout is 1 s
                assert not any([await finish(ends, run) for run in runs[1:]])
    assert {(await stored(storage, run))[0] for run in runs} == {RunStatus.COMPLETED}


async def test_what_is_left_when_the_process_stops_is_stored_at_the_next_start(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    with failing(folder):
        async with open_ends(storage.runs, storage.logs, folder) as ends:
            await finish(ends, run, AWKWARD, "one", "two")
    assert (await storage.runs.get(run.id)).status is RunStatus.STARTED
    assert [name.split(".")[-1] for name in files_in(folder)] == ["json"]
    async with open_ends(storage.runs, storage.logs, folder):
        assert await stored(storage, run) == (RunStatus.COMPLETED, AWKWARD, ["one", "two"])
    assert files_in(folder) == {}


async def test_what_memory_cant_hold_goes_to_the_spool_and_comes_back(storage: Storage, folder: Path) -> None:
    runs = [await started(storage) for _ in range(3)]
    async with open_ends(storage.runs, storage.logs, folder, max_bytes=100 * KIB) as ends, trio.open_nursery() as nursery:
        with failing(folder):
            for run in runs:
                await finish(ends, run, "x" * 60 * KIB)
            assert len(files_in(folder)) == 2
        await nursery.start(ends.retry)
        for run in runs:
            await until(storage, run)
        nursery.cancel_scope.cancel()
    assert files_in(folder) == {}


async def test_without_memory_and_disk_the_end_is_kept_and_its_result_cut(storage: Storage, folder: Path) -> None:
    runs = [await started(storage) for _ in range(2)]
    put(folder, b"in the way of the spool")
    with heard() as said:
        async with open_ends(storage.runs, storage.logs, folder, max_bytes=150 * KIB) as ends:
            with failing(folder):
                for run in runs:
                    await finish(ends, run, "x" * 120 * KIB, "one")
    assert "run end cut" in said()
    status, result, logs = await stored(storage, runs[1])
    assert (status, len(result.encode()), logs) == (RunStatus.COMPLETED, KEPT_BYTES, [])
    assert (await storage.runs.get(runs[1].id)).extra == EXTRA | {"result_truncated": True}


async def test_an_end_that_can_be_kept_nowhere_is_said_to_be_lost(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    put(folder, b"in the way of the spool")
    with heard() as said:
        async with open_ends(storage.runs, storage.logs, folder, max_bytes=0) as ends:
            with failing(folder):
                await finish(ends, run)
    assert said()[-1] == "run end lost"


async def test_an_end_whose_caller_is_cancelled_in_the_middle_is_stored(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    async with open_ends(storage.runs, storage.logs, folder) as ends:
        with trio.CancelScope() as scope:
            scope.cancel()
            await finish(ends, run, AWKWARD, "one")
        assert scope.cancelled_caught
    assert await stored(storage, run) == (RunStatus.COMPLETED, AWKWARD, ["one"])


async def test_a_spooled_end_of_a_run_that_has_ended_changes_nothing(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    with failing(folder):
        async with open_ends(storage.runs, storage.logs, folder) as ends:
            await finish(ends, run, "late", "one")
    await storage.runs.finish(run.id, RunStatus.FAILED, "first", {}, minutes(2))
    async with open_ends(storage.runs, storage.logs, folder):
        assert await stored(storage, run) == (RunStatus.FAILED, "first", ["one"])
    assert files_in(folder) == {}


async def test_replaying_after_a_crash_in_the_middle_stores_nothing_twice(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    with failing(folder):
        async with open_ends(storage.runs, storage.logs, folder) as ends:
            await finish(ends, run, "r", "one", "two")
    [(name, content)] = files_in(folder).items()
    for _ in range(2):
        put(folder / name, content)
        async with open_ends(storage.runs, storage.logs, folder):
            assert await stored(storage, run) == (RunStatus.COMPLETED, "r", ["one", "two"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"run_id": 5}', b"[]"])
async def test_a_spool_file_that_cant_be_read_is_put_aside_and_said_in_the_log(
    storage: Storage, folder: Path, content: bytes
) -> None:
    put(folder / "x.json", content)
    with heard() as said:
        async with open_ends(storage.runs, storage.logs, folder):
            pass
    assert said() == ["spool file unreadable"]
    assert files_in(folder) == {"x.bad": content}


async def test_a_start_with_a_failing_store_and_a_full_spool_is_a_start(storage: Storage, folder: Path) -> None:
    run = await started(storage)
    with failing(folder):
        async with open_ends(storage.runs, storage.logs, folder) as ends:
            await finish(ends, run)
    with failing(folder):
        async with open_ends(storage.runs, storage.logs, folder):
            assert len(files_in(folder)) == 1
    async with open_ends(storage.runs, storage.logs, folder):
        assert (await stored(storage, run))[0] is RunStatus.COMPLETED
