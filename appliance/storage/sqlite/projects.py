"""Projects in SQLite."""

from appliance.entities import Project
from appliance.errors import NotFound
from appliance.storage.sqlite.database import Database
from appliance.storage.sqlite.rows import project_of, project_params

CREATE = """
INSERT INTO projects (id, mongo_object_id, uuid, name, authorizations, created_at, updated_at)
VALUES (:id, :mongo_object_id, :uuid, :name, :authorizations, :created_at, :updated_at)
"""
FIND = "SELECT * FROM projects WHERE uuid = :uuid"
UPDATE = """
UPDATE projects SET uuid = :uuid, name = :name, authorizations = :authorizations, updated_at = :updated_at
WHERE id = :id OR mongo_object_id = :id
"""
DELETE = "DELETE FROM projects WHERE id = :key OR mongo_object_id = :key"


class SqliteProjects:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, project: Project) -> None:
        await self._database.execute(CREATE, project_params(project))

    async def find(self, uuid: str) -> Project:
        project = await self._database.first(project_of, FIND, {"uuid": uuid})
        if project is None:
            raise NotFound("project", uuid)
        return project

    async def update(self, project: Project) -> None:
        if not await self._database.execute(UPDATE, project_params(project)):
            raise NotFound("project", project.id)

    async def delete(self, project_id: str) -> None:
        if not await self._database.execute(DELETE, {"key": project_id}):
            raise NotFound("project", project_id)
