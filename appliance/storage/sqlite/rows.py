"""Entity ↔ row: the parameters of a statement from an entity, and an entity from a row by its columns' names."""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from appliance.entities import (
    Authorization,
    Code,
    CodeLib,
    CodeLimits,
    CodeLog,
    CodeRun,
    CodeType,
    Language,
    LogType,
    Project,
    Role,
    RunStatus,
    UserPermission,
)

Params = dict[str, object]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Exact, where a float of seconds is not."""
    return (at - _EPOCH) // _MICROSECOND


def time_of(value: int) -> datetime:
    return _EPOCH + value * _MICROSECOND


def json_of(value: object) -> str:
    return msgspec.json.encode(value).decode()


def code_params(code: Code) -> Params:
    return {
        "id": code.id,
        "mongo_object_id": code.mongo_object_id,
        "name": code.name,
        "type": code.type.value,
        "source": code.source,
        "language": code.language.value,
        "url": code.url,
        "project_uuid": code.project_uuid,
        "timeout": code.timeout,
        "limits": json_of(code.limits),
        "created_at": micros(code.created_at),
        "updated_at": micros(code.updated_at),
    }


def code_of(row: sqlite3.Row) -> Code:
    return Code(
        id=row["id"],
        mongo_object_id=row["mongo_object_id"],
        name=row["name"],
        type=CodeType(row["type"]),
        source=row["source"],
        language=Language(row["language"]),
        url=row["url"],
        project_uuid=row["project_uuid"],
        timeout=row["timeout"],
        limits=msgspec.json.decode(row["limits"], type=CodeLimits),
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )


def run_params(run: CodeRun) -> Params:
    return {
        "id": run.id,
        "mongo_object_id": run.mongo_object_id,
        "code_id": run.code_id,
        "code_mongo_id": run.code_mongo_id,
        "status": run.status.value,
        "result": run.result,
        "extra": json_of(run.extra),
        "params": json_of(run.params),
        "body": run.body,
        "headers": json_of(run.headers),
        "created_at": micros(run.created_at),
        "updated_at": micros(run.updated_at),
    }


def run_of(row: sqlite3.Row) -> CodeRun:
    return CodeRun(
        id=row["id"],
        mongo_object_id=row["mongo_object_id"],
        code_id=row["code_id"],
        code_mongo_id=row["code_mongo_id"],
        status=RunStatus(row["status"]),
        result=row["result"],
        extra=extra_of(row),
        params=msgspec.json.decode(row["params"], type=dict[str, str]),
        body=row["body"],
        headers=msgspec.json.decode(row["headers"], type=dict[str, list[str]]),
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )


def extra_of(row: sqlite3.Row) -> dict[str, Any]:
    return msgspec.json.decode(row["extra"], type=dict[str, Any])


def log_params(entry: CodeLog) -> Params:
    return {
        "id": entry.id,
        "run_id": entry.run_id,
        "code_id": entry.code_id,
        "type": entry.type.value,
        "content": entry.content,
        "created_at": micros(entry.created_at),
        "updated_at": micros(entry.updated_at),
    }


def log_of(row: sqlite3.Row) -> CodeLog:
    return CodeLog(
        id=row["id"],
        run_id=row["run_id"],
        code_id=row["code_id"],
        type=LogType(row["type"]),
        content=row["content"],
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )


def lib_params(lib: CodeLib) -> Params:
    return {
        "id": lib.id,
        "mongo_object_id": lib.mongo_object_id,
        "name": lib.name,
        "language": lib.language.value,
        "created_at": micros(lib.created_at),
        "updated_at": micros(lib.updated_at),
    }


def lib_of(row: sqlite3.Row) -> CodeLib:
    return CodeLib(
        id=row["id"],
        mongo_object_id=row["mongo_object_id"],
        name=row["name"],
        language=Language(row["language"]),
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )


def permission_params(permission: UserPermission) -> Params:
    return {
        "id": permission.id,
        "mongo_object_id": permission.mongo_object_id,
        "project_uuid": permission.project_uuid,
        "email": permission.email,
        "role": permission.role.value,
        "created_at": micros(permission.created_at),
        "updated_at": micros(permission.updated_at),
    }


def permission_of(row: sqlite3.Row) -> UserPermission:
    return UserPermission(
        id=row["id"],
        mongo_object_id=row["mongo_object_id"],
        project_uuid=row["project_uuid"],
        email=row["email"],
        role=Role(row["role"]),
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )


def project_params(project: Project) -> Params:
    return {
        "id": project.id,
        "mongo_object_id": project.mongo_object_id,
        "uuid": project.uuid,
        "name": project.name,
        "authorizations": json_of(project.authorizations),
        "created_at": micros(project.created_at),
        "updated_at": micros(project.updated_at),
    }


def project_of(row: sqlite3.Row) -> Project:
    return Project(
        id=row["id"],
        mongo_object_id=row["mongo_object_id"],
        uuid=row["uuid"],
        name=row["name"],
        authorizations=msgspec.json.decode(row["authorizations"], type=tuple[Authorization, ...]),
        created_at=time_of(row["created_at"]),
        updated_at=time_of(row["updated_at"]),
    )
