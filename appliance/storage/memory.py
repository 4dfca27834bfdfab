"""A store that forgets with the process: for tests, and the shortest full reading of what `interface` promises."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import trio

from appliance.entities import Code, CodeLib, CodeLog, CodeRun, CodeType, Language, Project, RunStatus, UserPermission
from appliance.errors import Conflict, NotFound
from appliance.storage.abandoned import interrupted, owner_of
from appliance.storage.interface import LogPage, RunPage, RunQuery
from appliance.storage.paging import page_of

OPEN = (RunStatus.QUEUED, RunStatus.STARTED)


class _Row(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def mongo_object_id(self) -> str | None: ...
    @property
    def created_at(self) -> datetime: ...


R = TypeVar("R", bound=_Row)


class _Table(Generic[R]):
    """Rows by id; `unique` gives what no two rows may share, beside their ids."""

    def __init__(self, what: str, unique: Callable[[R], object]) -> None:
        self._what = what
        self._unique = unique
        self.rows: dict[str, R] = {}

    def find(self, matches: Callable[[R], bool], key: str) -> R:
        for row in self.rows.values():
            if matches(row):
                return row
        raise NotFound(self._what, key)

    def get(self, key: str) -> R:
        return self.rows.get(key) or self.find(lambda row: row.mongo_object_id == key, key)

    def create(self, row: R) -> None:
        if row.id in self.rows:
            raise Conflict(f"{self._what} exists already: {row.id}")
        self._put(row)

    def replace(self, row: R) -> None:
        """All but what never changes."""
        old = self.get(row.id)
        kept = {"id": old.id, "mongo_object_id": old.mongo_object_id, "created_at": old.created_at}
        self._put(msgspec.structs.replace(row, **kept))  # type: ignore[type-var]

    def delete(self, key: str) -> None:
        del self.rows[self.get(key).id]

    def _put(self, row: R) -> None:
        for other in self.rows.values():
            same_mongo_id = row.mongo_object_id is not None and other.mongo_object_id == row.mongo_object_id
            if other.id != row.id and (same_mongo_id or self._unique(other) == self._unique(row)):
                raise Conflict(f"{self._what} exists already: {self._unique(row)}")
        self.rows[row.id] = row


class MemoryCodes:
    def __init__(self) -> None:
        self._table: _Table[Code] = _Table("code", lambda code: code.id)

    async def create(self, code: Code) -> None:
        await trio.lowlevel.checkpoint()
        self._table.create(code)

    async def get(self, code_id: str) -> Code:
        await trio.lowlevel.checkpoint()
        return self._table.get(code_id)

    async def of_project(self, project_uuid: str, code_type: CodeType | None) -> list[Code]:
        await trio.lowlevel.checkpoint()
        found = [code for code in self._table.rows.values() if code.project_uuid == project_uuid]
        return sorted((code for code in found if code_type in (None, code.type)), key=_age)

    async def update(self, code: Code) -> None:
        await trio.lowlevel.checkpoint()
        self._table.replace(code)

    async def delete(self, code_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._table.delete(code_id)


class MemoryInstances:
    def __init__(self) -> None:
        self.seen: dict[str, datetime] = {}

    async def beat(self, instance: str, host: str, at: datetime) -> None:
        await trio.lowlevel.checkpoint()
        self.seen[instance] = at

    async def forget(self, instance: str) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.pop(instance, None)


class MemoryRuns:
    def __init__(self, instances: MemoryInstances) -> None:
        self._table: _Table[CodeRun] = _Table("run", lambda run: run.id)
        self._instances = instances

    async def create(self, run: CodeRun) -> None:
        await trio.lowlevel.checkpoint()
        self._table.create(run)

    async def get(self, run_id: str) -> CodeRun:
        await trio.lowlevel.checkpoint()
        return self._table.get(run_id)

    async def page(self, query: RunQuery) -> RunPage:
        await trio.lowlevel.checkpoint()
        found = (run for run in self._table.rows.values() if run.code_id == query.code_id)
        return page_of(iter(sorted((run for run in found if _asked_for(run, query)), key=_age, reverse=True)), query.limit)

    async def start(self, run_id: str, at: datetime) -> None:
        await trio.lowlevel.checkpoint()
        self._change(run_id, (RunStatus.QUEUED,), status=RunStatus.STARTED, updated_at=at)

    async def finish(self, run_id: str, status: RunStatus, result: str, extra: dict[str, Any], at: datetime) -> bool:
        await trio.lowlevel.checkpoint()
        return self._change(run_id, OPEN, status=status, result=result, extra=extra, updated_at=at)

    async def close_abandoned(self, instance: str, not_seen_since: datetime, at: datetime) -> list[str]:
        await trio.lowlevel.checkpoint()
        beating = {other for other, seen in self._instances.seen.items() if seen >= not_seen_since} | {instance}
        abandoned = [run for run in self._table.rows.values() if run.status in OPEN and _is_abandoned(run, beating)]
        for run in abandoned:
            self._change(run.id, OPEN, status=RunStatus.FAILED, extra=interrupted(run.extra), updated_at=at)
        return [run.id for run in abandoned]

    async def delete_older(self, before: datetime, limit: int) -> int:
        await trio.lowlevel.checkpoint()
        old = sorted((run for run in self._table.rows.values() if run.created_at < before), key=_age)[:limit]
        for run in old:
            self._table.delete(run.id)
        return len(old)

    def _change(self, run_id: str, states: tuple[RunStatus, ...], **changes: Any) -> bool:
        try:
            run = self._table.get(run_id)
        except NotFound:
            return False
        if run.status not in states:
            return False
        self._table.rows[run.id] = msgspec.structs.replace(run, **changes)
        return True


class MemoryLogs:
    def __init__(self) -> None:
        self._entries: dict[str, CodeLog] = {}  # in the order of appending

    async def append(self, entries: Sequence[CodeLog]) -> None:
        await trio.lowlevel.checkpoint()
        for entry in entries:
            self._entries.setdefault(entry.id, entry)

    async def get(self, log_id: str) -> CodeLog:
        await trio.lowlevel.checkpoint()
        if log_id not in self._entries:
            raise NotFound("log", log_id)
        return self._entries[log_id]

    async def page(self, run_id: str | None, code_id: str | None, page: int, per_page: int) -> LogPage:
        await trio.lowlevel.checkpoint()
        found = [e for e in self._entries.values() if run_id in (None, e.run_id) and code_id in (None, e.code_id)]
        newest_first = sorted(found, key=lambda entry: entry.created_at)[::-1]  # stable: equal times keep their order
        return LogPage(entries=newest_first[(page - 1) * per_page : page * per_page], total=len(found))

    async def delete_older(self, before: datetime, limit: int) -> int:
        await trio.lowlevel.checkpoint()
        old = sorted((e for e in self._entries.values() if e.created_at < before), key=lambda e: e.created_at)[:limit]
        for entry in old:
            del self._entries[entry.id]
        return len(old)


class MemoryLibs:
    def __init__(self) -> None:
        self._table: _Table[CodeLib] = _Table("lib", lambda lib: (lib.name, lib.language))

    async def create(self, lib: CodeLib) -> None:
        await trio.lowlevel.checkpoint()
        self._table.create(lib)

    async def find(self, name: str, language: Language) -> CodeLib:
        await trio.lowlevel.checkpoint()
        return self._table.find(lambda lib: (lib.name, lib.language) == (name, language), name)

    async def all(self, language: Language) -> list[CodeLib]:
        await trio.lowlevel.checkpoint()
        return sorted((lib for lib in self._table.rows.values() if lib.language is language), key=lambda lib: lib.name)

    async def delete(self, lib_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._table.delete(lib_id)


class MemoryPermissions:
    def __init__(self) -> None:
        self._table: _Table[UserPermission] = _Table("permission", lambda each: (each.project_uuid, each.email))

    async def create(self, permission: UserPermission) -> None:
        await trio.lowlevel.checkpoint()
        self._table.create(permission)

    async def find(self, project_uuid: str, email: str) -> UserPermission:
        await trio.lowlevel.checkpoint()
        wanted = (project_uuid, email)
        return self._table.find(lambda each: (each.project_uuid, each.email) == wanted, f"{email} in {project_uuid}")

    async def of_project(self, project_uuid: str) -> list[UserPermission]:
        await trio.lowlevel.checkpoint()
        found = (each for each in self._table.rows.values() if each.project_uuid == project_uuid)
        return sorted(found, key=lambda each: each.email)

    async def update(self, permission: UserPermission) -> None:
        await trio.lowlevel.checkpoint()
        self._table.replace(permission)

    async def delete(self, permission_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._table.delete(permission_id)


class MemoryProjects:
    def __init__(self) -> None:
        self._table: _Table[Project] = _Table("project", lambda project: project.uuid)

    async def create(self, project: Project) -> None:
        await trio.lowlevel.checkpoint()
        self._table.create(project)

    async def find(self, uuid: str) -> Project:
        await trio.lowlevel.checkpoint()
        return self._table.find(lambda project: project.uuid == uuid, uuid)

    async def update(self, project: Project) -> None:
        await trio.lowlevel.checkpoint()
        self._table.replace(project)

    async def delete(self, project_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._table.delete(project_id)


class MemoryStorage:
    exclusive = True

    def __init__(self) -> None:
        self.codes = MemoryCodes()
        self.instances = MemoryInstances()
        self.runs = MemoryRuns(self.instances)
        self.logs = MemoryLogs()
        self.libs = MemoryLibs()
        self.permissions = MemoryPermissions()
        self.projects = MemoryProjects()

    async def check(self) -> None:
        await trio.lowlevel.checkpoint()


def _age(row: _Row) -> tuple[datetime, str]:
    return (row.created_at, row.id)


def _asked_for(run: CodeRun, query: RunQuery) -> bool:
    return (
        (query.after is None or run.created_at >= query.after)
        and (query.before is None or run.created_at <= query.before)
        and (query.older_than is None or _age(run) < query.older_than)
    )


def _is_abandoned(run: CodeRun, beating: Iterable[str]) -> bool:
    owner = owner_of(run.extra)
    return owner is not None and owner not in beating
