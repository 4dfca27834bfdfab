"""What a caller may do in a project."""

import pytest

from appliance.access import ADMIN, ANYBODY, Access, Kind, Principal
from appliance.entities import Role, UserPermission, new_id, now
from appliance.errors import Forbidden, Unauthenticated
from appliance.storage.memory import MemoryStorage

TEAMMATE = Principal(kind=Kind.USER, email="teammate@example.org")
SERVICE = Principal(kind=Kind.SERVICE)


async def access_where_the_teammate_is(role: Role) -> Access:
    permissions = MemoryStorage().permissions
    at = now()
    await permissions.create(
        UserPermission(id=new_id(), project_uuid="ours", email=TEAMMATE.email, role=role, created_at=at, updated_at=at)
    )
    return Access(admin_token="a", auth_token="b", metrics_token="c", open_to_all=False, permissions=permissions)


async def test_a_token_that_is_not_ascii_is_compared_by_its_bytes() -> None:
    permissions = MemoryStorage().permissions
    access = Access(admin_token="tökén", auth_token="", metrics_token="", open_to_all=False, permissions=permissions)
    assert await access.principal("Token tökén".encode()) == ADMIN
    for other in ("Token tökén".encode("latin-1"), b"Token \xff", b"Token token", b"Token"):
        with pytest.raises(Unauthenticated):
            await access.principal(other)


@pytest.mark.parametrize("principal", [ADMIN, SERVICE])
async def test_the_administrator_and_services_may_do_everything(principal: Principal) -> None:
    access = await access_where_the_teammate_is(Role.VIEWER)
    await access.read(principal, "theirs")
    await access.write(principal, "theirs")


@pytest.mark.parametrize(("role", "may_write"), [(Role.VIEWER, False), (Role.CONTRIBUTOR, False), (Role.MODERATOR, True)])
async def test_a_teammate_may_read_and_a_moderator_write(role: Role, may_write: bool) -> None:
    access = await access_where_the_teammate_is(role)
    await access.read(TEAMMATE, "ours")
    if may_write:
        await access.write(TEAMMATE, "ours")
    else:
        with pytest.raises(Forbidden, match="moderator"):
            await access.write(TEAMMATE, "ours")


@pytest.mark.parametrize(("principal", "project"), [(TEAMMATE, "theirs"), (TEAMMATE, ""), (ANYBODY, "ours")])
async def test_a_stranger_may_not_read(principal: Principal, project: str) -> None:
    access = await access_where_the_teammate_is(Role.MODERATOR)
    with pytest.raises(Forbidden):
        await access.read(principal, project)
