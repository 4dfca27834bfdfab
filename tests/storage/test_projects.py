import pytest

from appliance.entities import Authorization, Role, new_id
from appliance.errors import Conflict, NotFound
from appliance.storage.interface import Storage
from tests.storage.builders import AWKWARD, MONGO_ID, NOON, a_project, minutes

OWNER = Authorization(user_email="owner@example.com", role=Role.MODERATOR)
TEAMMATE = Authorization(user_email="teammate@example.com", role=Role.CONTRIBUTOR)


async def test_a_project_is_found_by_its_own_uuid(storage: Storage) -> None:
    project = a_project(uuid=new_id(), name=AWKWARD, mongo_object_id=MONGO_ID, authorizations=(TEAMMATE, OWNER))
    await storage.projects.create(project)
    assert await storage.projects.find(project.uuid) == project
    with pytest.raises(NotFound):
        await storage.projects.find(project.id)


async def test_a_second_project_with_the_same_uuid_is_a_conflict(storage: Storage) -> None:
    await storage.projects.create(a_project())
    with pytest.raises(Conflict, match="exists already"):
        await storage.projects.create(a_project(name="other"))
    assert (await storage.projects.find("project-1")).name == "Shop"


async def test_an_update_replaces_name_and_authorizations(storage: Storage) -> None:
    project = a_project(mongo_object_id=MONGO_ID, authorizations=(OWNER,))
    await storage.projects.create(project)
    changed = a_project(id=project.id, name="Store", authorizations=(TEAMMATE,), created_at=minutes(1), updated_at=minutes(1))
    await storage.projects.update(changed)
    found = await storage.projects.find("project-1")
    assert (found.name, found.authorizations, found.updated_at) == ("Store", (TEAMMATE,), minutes(1))
    assert (found.created_at, found.mongo_object_id) == (NOON, MONGO_ID)


@pytest.mark.parametrize("by", ["id", "mongo_object_id"])
async def test_a_deleted_project_is_gone(storage: Storage, by: str) -> None:
    project = a_project(mongo_object_id=MONGO_ID)
    await storage.projects.create(project)
    await storage.projects.delete(getattr(project, by))
    with pytest.raises(NotFound):
        await storage.projects.find("project-1")


async def test_updating_or_deleting_an_unknown_project_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound):
        await storage.projects.update(a_project())
    with pytest.raises(NotFound):
        await storage.projects.delete(new_id())
