import pytest

from appliance.entities import Language, new_id
from appliance.errors import Conflict, NotFound
from appliance.storage.interface import Storage
from tests.storage.builders import MONGO_ID, a_lib


async def test_a_lib_is_found_by_name_and_language(storage: Storage) -> None:
    python, go = a_lib(mongo_object_id=MONGO_ID), a_lib(language=Language.GO)
    await storage.libs.create(python)
    await storage.libs.create(go)
    assert await storage.libs.find("requests", Language.PYTHON) == python
    with pytest.raises(NotFound):
        await storage.libs.find("requests", Language.JAVASCRIPT)


async def test_a_lib_of_that_name_and_language_is_a_conflict(storage: Storage) -> None:
    await storage.libs.create(a_lib())
    with pytest.raises(Conflict, match="exists already"):
        await storage.libs.create(a_lib())


async def test_libs_of_a_language_are_listed_by_name(storage: Storage) -> None:
    for name in ("numpy", "attrs", "httpx"):
        await storage.libs.create(a_lib(name=name))
    await storage.libs.create(a_lib(language=Language.GO))
    assert [lib.name for lib in await storage.libs.all(Language.PYTHON)] == ["attrs", "httpx", "numpy"]


@pytest.mark.parametrize("by", ["id", "mongo_object_id"])
async def test_a_deleted_lib_is_gone(storage: Storage, by: str) -> None:
    lib = a_lib(mongo_object_id=MONGO_ID)
    await storage.libs.create(lib)
    await storage.libs.delete(getattr(lib, by))
    assert await storage.libs.all(Language.PYTHON) == []


async def test_deleting_an_unknown_lib_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound):
        await storage.libs.delete(new_id())
