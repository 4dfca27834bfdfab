"""Permissions in SQLite."""

from appliance.entities import UserPermission
from appliance.errors import NotFound
from appliance.storage.sqlite.database import Database
from appliance.storage.sqlite.rows import permission_of, permission_params

CREATE = """
INSERT INTO user_permissions (id, mongo_object_id, project_uuid, email, role, created_at, updated_at)
VALUES (:id, :mongo_object_id, :project_uuid, :email, :role, :created_at, :updated_at)
"""
FIND = "SELECT * FROM user_permissions WHERE project_uuid = :project_uuid AND email = :email"
OF_PROJECT = "SELECT * FROM user_permissions WHERE project_uuid = :project_uuid ORDER BY email"
UPDATE = """
UPDATE user_permissions SET project_uuid = :project_uuid, email = :email, role = :role, updated_at = :updated_at
WHERE id = :id OR mongo_object_id = :id
"""
DELETE = "DELETE FROM user_permissions WHERE id = :key OR mongo_object_id = :key"


class SqlitePermissions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, permission: UserPermission) -> None:
        await self._database.execute(CREATE, permission_params(permission))

    async def find(self, project_uuid: str, email: str) -> UserPermission:
        permission = await self._database.first(permission_of, FIND, {"project_uuid": project_uuid, "email": email})
        if permission is None:
            raise NotFound("permission", f"{email} in {project_uuid}")
        return permission

    async def of_project(self, project_uuid: str) -> list[UserPermission]:
        return await self._database.all(permission_of, OF_PROJECT, {"project_uuid": project_uuid})

    async def update(self, permission: UserPermission) -> None:
        if not await self._database.execute(UPDATE, permission_params(permission)):
            raise NotFound("permission", permission.id)

    async def delete(self, permission_id: str) -> None:
        if not await self._database.execute(DELETE, {"key": permission_id}):
            raise NotFound("permission", permission_id)
