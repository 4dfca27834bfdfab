import pytest

from appliance.entities import Role, new_id
from appliance.errors import Conflict, NotFound
from appliance.storage.interface import Storage
from tests.storage.builders import MONGO_ID, NOON, a_permission, minutes

OWNER, TEAMMATE, STRANGER = "owner@example.com", "teammate@example.com", "stranger@example.com"


async def test_a_permission_is_found_by_project_and_email(storage: Storage) -> None:
    owner = a_permission(mongo_object_id=MONGO_ID, role=Role.MODERATOR)
    await storage.permissions.create(owner)
    await storage.permissions.create(a_permission(project_uuid="project-2"))
    assert await storage.permissions.find("project-1", OWNER) == owner
    with pytest.raises(NotFound, match=STRANGER):
        await storage.permissions.find("project-1", STRANGER)


async def test_a_second_permission_of_a_user_in_a_project_is_a_conflict(storage: Storage) -> None:
    await storage.permissions.create(a_permission())
    with pytest.raises(Conflict, match="exists already"):
        await storage.permissions.create(a_permission(role=Role.MODERATOR))


async def test_a_projects_permissions_are_listed_by_email(storage: Storage) -> None:
    for email in (TEAMMATE, STRANGER, OWNER):
        await storage.permissions.create(a_permission(email=email))
    await storage.permissions.create(a_permission(project_uuid="project-2"))
    assert [each.email for each in await storage.permissions.of_project("project-1")] == [OWNER, STRANGER, TEAMMATE]


async def test_an_update_changes_the_role_and_not_the_time_of_creation(storage: Storage) -> None:
    owner = a_permission(mongo_object_id=MONGO_ID)
    await storage.permissions.create(owner)
    changed = a_permission(id=owner.id, role=Role.MODERATOR, created_at=minutes(1), updated_at=minutes(1))
    await storage.permissions.update(changed)
    found = await storage.permissions.find("project-1", OWNER)
    assert (found.role, found.updated_at) == (Role.MODERATOR, minutes(1))
    assert (found.created_at, found.mongo_object_id) == (NOON, MONGO_ID)


async def test_an_update_to_another_users_email_is_a_conflict(storage: Storage) -> None:
    teammate = a_permission(email=TEAMMATE)
    await storage.permissions.create(a_permission())
    await storage.permissions.create(teammate)
    with pytest.raises(Conflict):
        await storage.permissions.update(a_permission(id=teammate.id, email=OWNER))
    assert await storage.permissions.find("project-1", TEAMMATE) == teammate


@pytest.mark.parametrize("by", ["id", "mongo_object_id"])
async def test_a_deleted_permission_is_gone(storage: Storage, by: str) -> None:
    owner = a_permission(mongo_object_id=MONGO_ID)
    await storage.permissions.create(owner)
    await storage.permissions.delete(getattr(owner, by))
    assert await storage.permissions.of_project("project-1") == []


async def test_updating_or_deleting_an_unknown_permission_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound):
        await storage.permissions.update(a_permission())
    with pytest.raises(NotFound):
        await storage.permissions.delete(new_id())
