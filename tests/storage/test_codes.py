import pytest

from appliance.entities import CodeLimits, CodeType, Language, Network
from appliance.errors import Conflict, NotFound
from appliance.storage.interface import Storage
from tests.storage.builders import AWKWARD, MONGO_ID, NOON, a_code, a_log, a_run, minutes


async def test_a_code_comes_back_as_it_was_created(storage: Storage) -> None:
    limits = CodeLimits(memory_bytes=2**26, cpu_percent=50, network=Network.NONE)
    code = a_code(name=AWKWARD, source=AWKWARD, url="https://x.test/é", mongo_object_id=MONGO_ID, timeout=300, limits=limits)
    await storage.codes.create(code)
    assert await storage.codes.get(code.id) == code


async def test_a_code_is_found_by_its_mongo_object_id(storage: Storage) -> None:
    code = a_code(mongo_object_id=MONGO_ID)
    await storage.codes.create(a_code())
    await storage.codes.create(code)
    assert await storage.codes.get(MONGO_ID) == code


@pytest.mark.parametrize("unknown", ["6b1f7a0c-52de-4a9e-9d4e-3c1f0f7f2a11", "f" * 24])
async def test_an_unknown_code_is_not_found(storage: Storage, unknown: str) -> None:
    with pytest.raises(NotFound, match=unknown):
        await storage.codes.get(unknown)


@pytest.mark.parametrize("same", ["id", "mongo_object_id"])
async def test_a_second_code_with_the_same_id_is_a_conflict(storage: Storage, same: str) -> None:
    first = a_code(mongo_object_id=MONGO_ID)
    await storage.codes.create(first)
    with pytest.raises(Conflict):
        await storage.codes.create(a_code(**{same: getattr(first, same), "name": "other"}))
    assert (await storage.codes.get(first.id)).name == first.name


async def test_a_projects_codes_are_listed_oldest_first(storage: Storage) -> None:
    codes = [a_code(created_at=minutes(n)) for n in (3, 1, 2)]
    for code in [*codes, a_code(project_uuid="project-2")]:
        await storage.codes.create(code)
    assert await storage.codes.of_project("project-1", None) == [codes[1], codes[2], codes[0]]


async def test_a_projects_codes_are_listed_by_type(storage: Storage) -> None:
    endpoint, flow = a_code(), a_code(type=CodeType.FLOW)
    await storage.codes.create(endpoint)
    await storage.codes.create(flow)
    assert await storage.codes.of_project("project-1", CodeType.FLOW) == [flow]
    assert await storage.codes.of_project("project-3", CodeType.FLOW) == []


async def test_an_update_replaces_all_but_the_mongo_object_id_and_the_time_of_creation(storage: Storage) -> None:
    old = a_code(mongo_object_id=MONGO_ID)
    new = a_code(
        id=old.id,
        name="renamed",
        type=CodeType.FLOW,
        source="func Run() {}",
        language=Language.GO,
        url="/x",
        project_uuid="project-2",
        timeout=5,
        limits=CodeLimits(tasks=8),
        created_at=minutes(9),
        updated_at=minutes(9),
    )
    await storage.codes.create(old)
    await storage.codes.update(new)
    found = await storage.codes.get(old.id)
    assert (found.mongo_object_id, found.created_at) == (MONGO_ID, NOON)
    assert (found.name, found.type, found.source, found.language, found.url) == ("renamed", "flow", new.source, "go", "/x")
    assert (found.project_uuid, found.timeout, found.limits, found.updated_at) == ("project-2", 5, new.limits, minutes(9))


async def test_updating_or_deleting_a_code_that_is_gone_is_not_found(storage: Storage) -> None:
    code = a_code()
    with pytest.raises(NotFound):
        await storage.codes.update(code)
    with pytest.raises(NotFound):
        await storage.codes.delete(code.id)


@pytest.mark.parametrize("by", ["id", "mongo_object_id"])
async def test_deleting_a_code_leaves_its_runs_and_logs(storage: Storage, by: str) -> None:
    code, other = a_code(mongo_object_id=MONGO_ID), a_code()
    run, entry = a_run(code_id=code.id), a_log(code_id=code.id)
    await storage.codes.create(code)
    await storage.codes.create(other)
    await storage.runs.create(run)
    await storage.logs.append([entry])
    await storage.codes.delete(getattr(code, by))
    assert await storage.codes.of_project("project-1", None) == [other]
    assert (await storage.runs.get(run.id), await storage.logs.get(entry.id)) == (run, entry)


async def test_the_store_answers_a_check(storage: Storage) -> None:
    await storage.check()
