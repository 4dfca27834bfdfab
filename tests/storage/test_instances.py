import pytest

from appliance.entities import CodeRun, RunStatus
from appliance.storage.interface import Storage
from tests.storage.builders import NOON, a_run, minutes

ME, OTHER = "instance-me", "instance-other"


async def a_run_of(storage: Storage, instance: str | None, status: RunStatus = RunStatus.STARTED) -> CodeRun:
    run = a_run(status=status, extra={"instance": instance, "limits": {"tasks": 64}} if instance else {"status_code": 200})
    await storage.runs.create(run)
    return run


async def closed_by_me(storage: Storage) -> list[str]:
    return await storage.runs.close_abandoned(ME, not_seen_since=minutes(-1), at=minutes(1))


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.STARTED])
async def test_a_run_whose_instance_never_beat_is_closed_as_interrupted(storage: Storage, status: RunStatus) -> None:
    run = await a_run_of(storage, OTHER, status)
    assert await closed_by_me(storage) == [run.id]
    found = await storage.runs.get(run.id)
    assert (found.status, found.updated_at) == (RunStatus.FAILED, minutes(1))
    assert found.extra.pop("message")
    kept = {"instance": OTHER, "limits": {"tasks": 64}}
    assert found.extra == kept | {"outcome": "interrupted", "status_code": 503, "content_type": "json", "usage": {}}


async def test_a_run_whose_instance_has_stopped_beating_is_closed(storage: Storage) -> None:
    run = await a_run_of(storage, OTHER)
    await storage.instances.beat(OTHER, "host", minutes(-2))
    assert await closed_by_me(storage) == [run.id]


async def test_a_run_whose_instance_beats_stays(storage: Storage) -> None:
    run = await a_run_of(storage, OTHER)
    await storage.instances.beat(OTHER, "host", minutes(-2))
    await storage.instances.beat(OTHER, "host", minutes(-1))
    assert await closed_by_me(storage) == []
    assert await storage.runs.get(run.id) == run


async def test_a_run_of_an_instance_that_has_left_is_closed(storage: Storage) -> None:
    run = await a_run_of(storage, OTHER)
    await storage.instances.beat(OTHER, "host", NOON)
    await storage.instances.forget(OTHER)
    assert await closed_by_me(storage) == [run.id]


async def test_my_own_runs_and_runs_without_an_owner_stay(storage: Storage) -> None:
    await a_run_of(storage, ME)
    await a_run_of(storage, None)
    assert await closed_by_me(storage) == []


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED])
async def test_a_run_that_has_ended_stays(storage: Storage, status: RunStatus) -> None:
    run = await a_run_of(storage, OTHER, status)
    assert await closed_by_me(storage) == []
    assert await storage.runs.get(run.id) == run


async def test_a_closed_run_cant_be_finished_by_its_late_owner(storage: Storage) -> None:
    run = await a_run_of(storage, OTHER)
    await closed_by_me(storage)
    assert not await storage.runs.finish(run.id, RunStatus.COMPLETED, "late", {}, minutes(2))


async def test_forgetting_an_unknown_instance_does_nothing(storage: Storage) -> None:
    await storage.instances.forget("nobody")
