"""Libs in SQLite."""

from appliance.entities import CodeLib, Language
from appliance.errors import NotFound
from appliance.storage.sqlite.database import Database
from appliance.storage.sqlite.rows import lib_of, lib_params

CREATE = """
INSERT INTO codelibs (id, mongo_object_id, name, language, created_at, updated_at)
VALUES (:id, :mongo_object_id, :name, :language, :created_at, :updated_at)
"""
FIND = "SELECT * FROM codelibs WHERE name = :name AND language = :language"
ALL = "SELECT * FROM codelibs WHERE language = :language ORDER BY name"
DELETE = "DELETE FROM codelibs WHERE id = :key OR mongo_object_id = :key"


class SqliteLibs:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, lib: CodeLib) -> None:
        await self._database.execute(CREATE, lib_params(lib))

    async def find(self, name: str, language: Language) -> CodeLib:
        lib = await self._database.first(lib_of, FIND, {"name": name, "language": language.value})
        if lib is None:
            raise NotFound("lib", name)
        return lib

    async def all(self, language: Language) -> list[CodeLib]:
        return await self._database.all(lib_of, ALL, {"language": language.value})

    async def delete(self, lib_id: str) -> None:
        if not await self._database.execute(DELETE, {"key": lib_id}):
            raise NotFound("lib", lib_id)
