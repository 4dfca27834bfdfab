"""Codes in SQLite."""

from appliance.entities import Code, CodeType
from appliance.errors import NotFound
from appliance.storage.sqlite.database import Database
from appliance.storage.sqlite.rows import code_of, code_params

CREATE = """
INSERT INTO codes (id, mongo_object_id, name, type, language, url, project_uuid, timeout, limits, created_at, updated_at, source)
VALUES (:id, :mongo_object_id, :name, :type, :language, :url, :project_uuid, :timeout, :limits, :created_at, :updated_at, :source)
"""
GET = "SELECT * FROM codes WHERE id = :key OR mongo_object_id = :key"
OF_PROJECT = """
SELECT * FROM codes WHERE project_uuid = :project_uuid AND (:type IS NULL OR type = :type) ORDER BY created_at, id
"""
UPDATE = """
UPDATE codes SET name = :name, type = :type, language = :language, url = :url, project_uuid = :project_uuid,
    timeout = :timeout, limits = :limits, updated_at = :updated_at, source = :source
WHERE id = :id OR mongo_object_id = :id
"""
DELETE = "DELETE FROM codes WHERE id = :key OR mongo_object_id = :key"


class SqliteCodes:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, code: Code) -> None:
        await self._database.execute(CREATE, code_params(code))

    async def get(self, code_id: str) -> Code:
        code = await self._database.small(code_of, GET, {"key": code_id})
        if code is None:
            raise NotFound("code", code_id)
        return code

    async def of_project(self, project_uuid: str, code_type: CodeType | None) -> list[Code]:
        of_type = None if code_type is None else code_type.value
        return await self._database.all(code_of, OF_PROJECT, {"project_uuid": project_uuid, "type": of_type})

    async def update(self, code: Code) -> None:
        if not await self._database.execute(UPDATE, code_params(code)):
            raise NotFound("code", code.id)

    async def delete(self, code_id: str) -> None:
        if not await self._database.execute(DELETE, {"key": code_id}):
            raise NotFound("code", code_id)
