"""Entities as the JSON that the contract shows: what is empty is left out where it says so, times are RFC 3339 in UTC."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from appliance.builds import BuildState
from appliance.entities import Code, CodeLimits, CodeLog, CodeRun, CodeType, Language, LogType, RunStatus

encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct, frozen=True):
    """Every error."""

    message: str


class CodeOut(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    mongo_object_id: str | UnsetType = UNSET
    name: str
    type: CodeType
    source: str
    language: Language
    url: str | UnsetType = UNSET
    project_uuid: str
    timeout: int
    limits: CodeLimits
    build: BuildState | UnsetType = UNSET
    created_at: datetime
    updated_at: datetime


class RunOut(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    mongo_object_id: str | UnsetType = UNSET
    code_id: str
    code_mongo_id: str | UnsetType = UNSET
    status: RunStatus
    result: str
    extra: dict[str, Any]
    params: dict[str, str]
    body: str
    headers: dict[str, list[str]]
    created_at: datetime
    updated_at: datetime


class LogOut(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    run_id: str
    code_id: str
    type: LogType
    content: str
    created_at: datetime
    updated_at: datetime


class LogPageOut(msgspec.Struct, frozen=True, kw_only=True):
    data: list[LogOut]
    total: int
    page: int
    last_page: int


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    code_id: str
    result: RunOut


def code_out(code: Code, build: BuildState | None) -> CodeOut:
    """`build` is None for a language that isn't compiled."""
    return CodeOut(
        id=code.id,
        mongo_object_id=code.mongo_object_id or UNSET,
        name=code.name,
        type=code.type,
        source=code.source,
        language=code.language,
        url=code.url or UNSET,
        project_uuid=code.project_uuid,
        timeout=code.timeout,
        limits=code.limits,
        build=build or UNSET,
        created_at=code.created_at.astimezone(UTC),
        updated_at=code.updated_at.astimezone(UTC),
    )


def run_out(run: CodeRun) -> RunOut:
    return RunOut(
        id=run.id,
        mongo_object_id=run.mongo_object_id or UNSET,
        code_id=run.code_id,
        code_mongo_id=run.code_mongo_id or UNSET,
        status=run.status,
        result=run.result,
        extra=run.extra,
        params=run.params,
        body=run.body,
        headers=run.headers,
        created_at=run.created_at.astimezone(UTC),
        updated_at=run.updated_at.astimezone(UTC),
    )


def log_out(log: CodeLog) -> LogOut:
    return LogOut(
        id=log.id,
        run_id=log.run_id,
        code_id=log.code_id,
        type=log.type,
        content=log.content,
        created_at=log.created_at.astimezone(UTC),
        updated_at=log.updated_at.astimezone(UTC),
    )
