import pytest

from appliance.entities import CodeRun, RunStatus, new_id
from appliance.errors import Conflict, NotFound
from appliance.storage.interface import RunQuery, Storage
from tests.storage.builders import AWKWARD, MONGO_ID, NOON, a_run, minutes

ENDED = [RunStatus.COMPLETED, RunStatus.FAILED]
UNENDED = [RunStatus.QUEUED, RunStatus.STARTED]
BIG = "é" * (5 * 1024 * 1024)  # 10 MiB of UTF-8


async def created(storage: Storage, *runs: CodeRun) -> None:
    for run in runs:
        await storage.runs.create(run)


async def test_a_run_comes_back_as_it_was_created(storage: Storage) -> None:
    run = a_run(
        mongo_object_id=MONGO_ID,
        code_mongo_id="a" * 24,
        result=AWKWARD,
        extra={"usage": {"wall_ms": 0.1}, "isolation_missing": ["scope"], "message": None, "status_code": 200, AWKWARD: AWKWARD},
        params={"q": AWKWARD, "": ""},
        body=AWKWARD,
        headers={"Accept": ["a", "b"], "X-Empty": []},
    )
    await created(storage, run)
    assert await storage.runs.get(run.id) == await storage.runs.get(MONGO_ID) == run


async def test_a_result_and_a_body_of_ten_mebibytes_are_kept_whole(storage: Storage) -> None:
    run = a_run(body=BIG)
    await created(storage, run)
    await storage.runs.finish(run.id, RunStatus.COMPLETED, BIG[::-1], {}, NOON)
    found = await storage.runs.get(run.id)
    assert found.body == BIG
    assert found.result == BIG[::-1]


async def test_an_unknown_run_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound, match="run not found"):
        await storage.runs.get(new_id())


async def test_a_second_run_with_the_same_id_is_a_conflict(storage: Storage) -> None:
    run = a_run()
    await created(storage, run)
    with pytest.raises(Conflict):
        await created(storage, a_run(id=run.id, body="other"))
    assert await storage.runs.get(run.id) == run


async def test_a_page_holds_the_newest_runs_of_its_code_first(storage: Storage) -> None:
    runs = [a_run(created_at=minutes(n)) for n in range(5)]
    await created(storage, runs[2], runs[0], runs[4], runs[1], runs[3], a_run(code_id="code-2"))
    assert (await storage.runs.page(RunQuery(code_id="code-1", limit=3))).runs == [runs[4], runs[3], runs[2]]


async def test_after_and_before_include_their_own_moment(storage: Storage) -> None:
    runs = [a_run(created_at=minutes(n)) for n in range(5)]
    await created(storage, *runs)
    page = await storage.runs.page(RunQuery(code_id="code-1", after=minutes(1), before=minutes(3)))
    assert page.runs == runs[3:0:-1]


async def test_pages_meet_every_run_once_even_when_times_are_equal(storage: Storage) -> None:
    runs = [a_run(created_at=minutes(n // 4)) for n in range(10)]
    await created(storage, *runs)
    seen: list[CodeRun] = []
    query = RunQuery(code_id="code-1", limit=3)
    while page := (await storage.runs.page(query)).runs:
        seen += page
        query = RunQuery(code_id="code-1", limit=3, older_than=(page[-1].created_at, page[-1].id))
    assert seen == sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)


async def test_a_later_page_keeps_to_after_and_before(storage: Storage) -> None:
    runs = [a_run(created_at=minutes(n)) for n in range(6)]
    await created(storage, *runs)
    last = (runs[5].created_at, runs[5].id)
    query = RunQuery(code_id="code-1", after=minutes(2), before=minutes(4), older_than=last)
    assert (await storage.runs.page(query)).runs == [runs[4], runs[3], runs[2]]


async def test_a_page_says_whether_there_are_older_runs(storage: Storage) -> None:
    await created(storage, *(a_run(created_at=minutes(n)) for n in range(3)))
    assert (await storage.runs.page(RunQuery(code_id="code-1", limit=2))).more
    assert not (await storage.runs.page(RunQuery(code_id="code-1", limit=3))).more


async def test_large_runs_make_short_pages_of_at_least_one(storage: Storage) -> None:
    runs = [a_run(created_at=minutes(n), body="x" * (20 << 20)) for n in range(2)]
    await created(storage, *runs)
    page = await storage.runs.page(RunQuery(code_id="code-1"))
    assert [run.id for run in page.runs] == [runs[1].id]
    assert page.more


async def test_a_queued_run_is_started_once(storage: Storage) -> None:
    run = a_run(status=RunStatus.QUEUED)
    await created(storage, run)
    await storage.runs.start(run.id, minutes(1))
    await storage.runs.start(run.id, minutes(2))
    found = await storage.runs.get(run.id)
    assert (found.status, found.updated_at) == (RunStatus.STARTED, minutes(1))


@pytest.mark.parametrize("status", ENDED)
async def test_a_run_that_has_ended_cant_be_started(storage: Storage, status: RunStatus) -> None:
    run = a_run(status=status)
    await created(storage, run)
    await storage.runs.start(run.id, minutes(1))
    assert await storage.runs.get(run.id) == run


async def test_starting_a_run_that_isnt_there_does_nothing(storage: Storage) -> None:
    await storage.runs.start(new_id(), NOON)


@pytest.mark.parametrize("before", UNENDED)
@pytest.mark.parametrize("end", ENDED)
async def test_a_run_is_finished_with_its_result(storage: Storage, before: RunStatus, end: RunStatus) -> None:
    run = a_run(status=before, extra={"instance": "i", "queue": 1}, body="in")
    await created(storage, run)
    assert await storage.runs.finish(run.id, end, AWKWARD, {"outcome": "x"}, minutes(1))
    found = await storage.runs.get(run.id)
    assert (found.status, found.result, found.extra, found.updated_at) == (end, AWKWARD, {"outcome": "x"}, minutes(1))
    assert (found.body, found.created_at) == ("in", NOON)


async def test_a_run_is_finished_only_once(storage: Storage) -> None:
    run = a_run()
    await created(storage, run)
    assert await storage.runs.finish(run.id, RunStatus.COMPLETED, "first", {}, minutes(1))
    assert not await storage.runs.finish(run.id, RunStatus.FAILED, "second", {"no": 1}, minutes(2))
    found = await storage.runs.get(run.id)
    assert (found.status, found.result, found.updated_at) == (RunStatus.COMPLETED, "first", minutes(1))


async def test_finishing_a_run_that_isnt_there_is_false(storage: Storage) -> None:
    assert not await storage.runs.finish(new_id(), RunStatus.FAILED, "", {}, NOON)


async def test_at_most_a_limit_of_runs_is_deleted_oldest_first(storage: Storage) -> None:
    runs = [a_run(created_at=minutes(n)) for n in range(6)]
    await created(storage, *reversed(runs))
    assert [await storage.runs.delete_older(minutes(5), 3) for _ in range(3)] == [3, 2, 0]
    assert (await storage.runs.page(RunQuery(code_id="code-1"))).runs == [runs[5]]


async def test_deleting_runs_leaves_their_newer_ones_and_those_of_that_very_moment(storage: Storage) -> None:
    run = a_run()
    await created(storage, run)
    assert await storage.runs.delete_older(NOON, 1000) == 0
    assert await storage.runs.get(run.id) == run
