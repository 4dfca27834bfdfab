"""What only the embedded store has: a file that outlives the process, one owner, a full disk, threads that must not block."""

import contextlib
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.entities import CodeRun, RunStatus
from appliance.errors import Conflict, NotFound, StoreFailed
from appliance.storage import CannotOpen, open_storage
from appliance.storage.interface import RunQuery, Storage
from appliance.storage.sqlite import database, writer
from tests.storage.builders import a_code, a_log, a_run, minutes

MIB = 1024 * 1024
ALL_RUNS = RunQuery(code_id="code-1", limit=100_000)


def whole(state_dir: Path) -> bool:
    with sqlite3.connect(state_dir / "codeactions.db") as connection:
        answer = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return answer == [("ok",)]


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Somebody's sqlite3 shell in the middle of a transaction."""
    connection = sqlite3.connect(state_dir / "codeactions.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


@contextmanager
def files_bounded_to(size: int) -> Iterator[None]:
    """No file of this process grows past `size`: a disk without space that needs no privilege."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


# The file


async def test_what_was_stored_is_there_when_opened_again(tmp_path: Path) -> None:
    run = a_run()
    async with open_storage("sqlite", tmp_path) as storage:
        await storage.runs.create(run)
    async with open_storage("sqlite", tmp_path) as storage:
        assert await storage.runs.get(run.id) == run


async def test_a_clean_end_leaves_one_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    state_dir = tmp_path / "var" / "state"
    async with open_storage("sqlite", state_dir) as storage:
        await storage.runs.create(a_run())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state_dir.iterdir()}
    assert modes == {"codeactions.db": 0o600, "lock": 0o600}
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700


async def test_every_acknowledged_row_survives_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.storage.writes_until_killed", str(tmp_path)]
    acknowledged: list[str] = []
    for _ in range(3):
        acknowledged += await trio.to_thread.run_sync(killed_after_300_lines, command)
    async with open_storage("sqlite", tmp_path) as storage:
        kept = {run.id for run in (await storage.runs.page(ALL_RUNS)).runs}
        logged = {entry.id for entry in (await storage.logs.page(None, "code-1", 1, 100_000)).entries}
    assert len(acknowledged) >= 900
    assert set(acknowledged) <= kept
    assert set(acknowledged) <= logged
    assert whole(tmp_path)


async def test_a_second_opener_is_refused_in_one_line_that_names_the_first(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path):
        with pytest.raises(CannotOpen, match=rf"^the state directory .* is in use by another process \(pid {os.getpid()}\)$"):
            async with open_storage("sqlite", tmp_path):
                pass
    async with open_storage("sqlite", tmp_path):
        pass


async def test_a_state_directory_that_cant_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotOpen, match=r"^the state directory .*file/state can't be used by the user [0-9]+: Not a directory"):
        async with open_storage("sqlite", tmp_path / "file" / "state"):
            pass


async def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "codeactions.db").write_text("not a database, but long enough to have a header" * 100)
    with pytest.raises(CannotOpen, match=r"^the database .*codeactions.db can't be opened: .*not a database$"):
        async with open_storage("sqlite", tmp_path):
            pass


async def test_an_unknown_type_of_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen, match="'oracle'"):
        async with open_storage("oracle", tmp_path):
            pass


def size_of(path: Path) -> int:
    return path.stat().st_size


def killed_after_300_lines(command: list[str]) -> list[str]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(300)]
        writer.kill()
        lines += [line for line in writer.stdout if line.endswith("\n")]
    return [line.strip() for line in lines]


# Group commit


async def test_sixty_four_writers_at_once_each_get_their_own_rows_stored(tmp_path: Path) -> None:
    written = [[a_run() for _ in range(20)] for _ in range(64)]

    async def write(storage: Storage, mine: list[CodeRun]) -> None:
        for run in mine:
            await storage.runs.create(run)
            assert await storage.runs.get(run.id) == run

    async with open_storage("sqlite", tmp_path) as storage:
        async with trio.open_nursery() as nursery:
            for mine in written:
                nursery.start_soon(write, storage, mine)
        assert len((await storage.runs.page(ALL_RUNS)).runs) == 64 * 20
    assert whole(tmp_path)


async def test_a_writer_that_is_refused_hurts_none_of_its_group(tmp_path: Path) -> None:
    there = a_run()
    refused: list[str] = []

    async def write(storage: Storage, run: CodeRun) -> None:
        try:
            await storage.runs.create(run)
        except Conflict:
            refused.append(run.id)

    async with open_storage("sqlite", tmp_path) as storage:
        await storage.runs.create(there)
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(write, storage, a_run(id=there.id) if number % 3 else a_run())
        assert refused == [there.id] * 40
        assert len((await storage.runs.page(ALL_RUNS)).runs) == 1 + 20


async def test_a_row_outside_the_contracts_bounds_is_refused_and_the_store_goes_on(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path) as storage:
        for timeout in (4, 301):
            with pytest.raises(sqlite3.IntegrityError, match="timeout"):
                await storage.codes.create(a_code(timeout=timeout))
        await storage.codes.create(a_code())


async def test_a_batch_of_logs_that_fails_in_the_middle_stores_none(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path) as storage:
        with pytest.raises(UnicodeEncodeError):
            await storage.logs.append([a_log(), a_log(content="\ud800"), a_log()])
        assert (await storage.logs.page("run-1", None, 1, 20)).total == 0


# Cancellation and the loop


async def test_cancelled_writers_leave_the_store_whole_and_working(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path) as storage:
        for _ in range(10):
            with trio.move_on_after(0.003):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(storage.runs.create, a_run(body="x" * 10_000))
                        nursery.start_soon(storage.runs.page, ALL_RUNS)
        run = a_run()
        await storage.runs.create(run)
        assert await storage.runs.get(run.id) == run
        assert (await storage.runs.page(ALL_RUNS)).runs
    assert whole(tmp_path)


async def test_what_was_handed_in_is_stored_although_its_caller_left(tmp_path: Path) -> None:
    run = a_run()
    async with open_storage("sqlite", tmp_path) as storage, trio.open_nursery() as nursery:
        nursery.start_soon(storage.runs.create, run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with open_storage("sqlite", tmp_path) as storage:
        assert await storage.runs.get(run.id) == run


class LongestStep(trio.abc.Instrument):
    """The most that one step of a task has cost the loop's thread: CPU time, since wall time is also the machine's other work."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = time.thread_time()  # the step that adds it is under way

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.thread_time() - self._began)


async def test_no_step_of_the_loop_takes_100_ms_while_large_results_come_and_go(tmp_path: Path) -> None:
    longest = LongestStep()
    async with open_storage("sqlite", tmp_path) as storage:
        trio.lowlevel.add_instrument(longest)
        for _ in range(5):
            run = a_run(body="b" * 10 * MIB)
            await storage.runs.create(run)
            await storage.runs.finish(run.id, RunStatus.COMPLETED, "é" * 5 * MIB, {}, run.created_at)
            await storage.runs.get(run.id)
        trio.lowlevel.remove_instrument(longest)
    assert longest.seconds < 0.1


async def test_a_small_write_waits_only_briefly_behind_the_deletion_of_large_runs(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path) as storage:
        for _ in range(20):
            await storage.runs.create(a_run(body="b" * 10 * MIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.runs.delete_older, minutes(1), 1000)
            await trio.testing.wait_all_tasks_blocked()
            before = time.perf_counter()
            await storage.runs.create(a_run())
            waited = time.perf_counter() - before
    assert waited < 1


async def test_the_file_shrinks_once_large_runs_are_deleted(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path) as storage:
        for _ in range(15):
            await storage.runs.create(a_run(body="b" * 10 * MIB))
        while await storage.runs.delete_older(minutes(1), 1000):
            pass
    assert size_of(tmp_path / "codeactions.db") < 70 * MIB


# A store that fails


async def test_a_locked_database_is_a_failed_store_until_it_is_given_back(tmp_path: Path) -> None:
    run = a_run()
    async with open_storage("sqlite", tmp_path) as storage:
        with locked(tmp_path):
            with pytest.raises(StoreFailed, match="SQLITE_BUSY"):
                await storage.runs.create(run)
            with pytest.raises(StoreFailed):
                await storage.check()
            with pytest.raises(NotFound):
                await storage.runs.get(run.id)
        await storage.runs.create(run)
        await storage.check()


async def test_a_record_that_meets_a_lock_waits_for_it(tmp_path: Path) -> None:
    run = a_run()
    async with open_storage("sqlite", tmp_path) as storage, trio.open_nursery() as nursery:
        with locked(tmp_path):
            nursery.start_soon(storage.runs.create, run)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(NotFound):
                await storage.runs.get(run.id)
        with trio.fail_after(10):
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()
        assert await storage.runs.get(run.id) == run


async def test_records_large_and_small_keep_their_order(tmp_path: Path) -> None:
    small, large = a_run(), a_run(body="b" * MIB)
    async with open_storage("sqlite", tmp_path) as storage:
        for run, result in ((small, "r" * MIB), (large, "r")):
            await storage.runs.create(run)
            await storage.logs.append([a_log(run_id=run.id, content=text) for text in ("one", "t" * 8000, "three")])
            assert await storage.runs.finish(run.id, RunStatus.COMPLETED, result, {}, run.created_at)
            assert not await storage.runs.finish(run.id, RunStatus.FAILED, "", {}, run.created_at)
            assert (await storage.runs.get(run.id)).result == result
            assert (await storage.logs.page(run.id, None, 1, 20)).total == 3


async def test_the_log_ahead_of_the_file_stays_short_while_runs_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SETTLE_SECONDS", 0.02)
    monkeypatch.setattr(writer, "SHORTEN_SECONDS", 0.02)
    async with open_storage("sqlite", tmp_path) as storage:
        for _ in range(1500):  # 54 MB of pages, at a pace that calls may have
            await storage.runs.create(a_run(body="b" * 3000))
            await trio.sleep(0.001)
        assert size_of(tmp_path / "codeactions.db-wal") < 20 * MIB


async def test_a_full_disk_fails_the_write_changes_nothing_and_is_over_once_there_is_space(small_disk: Path) -> None:
    run, ballast = a_run(), small_disk / "ballast"
    async with open_storage("sqlite", small_disk / "state") as storage:
        await storage.runs.create(run)
        fill(ballast)
        with pytest.raises(StoreFailed, match="full"):
            await storage.runs.finish(run.id, RunStatus.COMPLETED, "r" * MIB, {}, run.created_at)
        assert await storage.runs.get(run.id) == run
        ballast.unlink()
        assert await storage.runs.finish(run.id, RunStatus.COMPLETED, "r" * MIB, {}, run.created_at)
    assert whole(small_disk / "state")


async def test_on_a_disk_that_is_almost_full_a_small_write_isnt_hurt_by_a_large_one(tmp_path: Path) -> None:
    small, failed = [a_run() for _ in range(20)], []

    async def write_large(storage: Storage) -> None:
        try:
            await storage.runs.create(a_run(body="b" * 8 * MIB))
        except StoreFailed as error:
            failed.append(error)

    async with open_storage("sqlite", tmp_path) as storage:
        with files_bounded_to(4 * MIB):
            async with trio.open_nursery() as nursery:
                for number, run in enumerate(small):
                    nursery.start_soon(storage.runs.create, run)
                    if number % 4 == 0:
                        nursery.start_soon(write_large, storage)
        kept = (await storage.runs.page(ALL_RUNS)).runs
    assert len(failed) == 5
    assert {run.id for run in kept} == {run.id for run in small}
    assert whole(tmp_path)


async def test_a_damaged_file_is_a_failed_store_for_what_lies_there(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path) as storage:
        for _ in range(100):
            await storage.runs.create(a_run(body="x" * 3000))
    damage(tmp_path / "codeactions.db", since=256 * 1024)
    async with open_storage("sqlite", tmp_path) as storage:
        with pytest.raises(StoreFailed, match="malformed"):
            await storage.runs.page(ALL_RUNS)
        await storage.codes.create(a_code())


async def test_a_closed_store_fails_and_doesnt_hang(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path) as storage:
        pass
    with trio.fail_after(10), pytest.raises(StoreFailed, match="closed"):
        await storage.runs.create(a_run())


def damage(path: Path, since: int) -> None:
    with path.open("r+b") as file:
        file.seek(since)
        file.write(b"\xa5" * (path.stat().st_size - since))


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (64 * 1024, 4096, 1):
            with contextlib.suppress(OSError):  # no space for one more of this size
                while True:
                    file.write(b"x" * size)
