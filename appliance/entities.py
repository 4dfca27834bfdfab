"""The six entities of the contract and their enumerated values, as frozen values.

Ids are UUIDs in canonical lower-case text; times are aware datetimes in UTC with microseconds.
"""

import uuid
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from engines.table import Language as Language


class CodeType(StrEnum):
    ENDPOINT = "endpoint"
    FLOW = "flow"


class RunStatus(StrEnum):
    QUEUED = "queued"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"


class LogType(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    ERROR = "error"


class Network(StrEnum):
    """What a run can reach: public addresses, or nothing at all."""

    INTERNET = "internet"
    NONE = "none"


class Role(IntEnum):
    VIEWER = 1
    CONTRIBUTOR = 2
    MODERATOR = 3


class CodeLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A code's own limits; an absent one is the installation's default."""

    memory_bytes: int | None = None
    cpu_percent: int | None = None
    tasks: int | None = None
    network: Network | None = None


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A source that can be called. `timeout` is in seconds; `source` is the author's text, as sent."""

    id: str
    mongo_object_id: str | None = None
    name: str
    type: CodeType
    source: str
    language: Language
    url: str = ""
    project_uuid: str
    timeout: int = 60
    limits: CodeLimits = CodeLimits()
    created_at: datetime
    updated_at: datetime


class CodeRun(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a code: what it was given, how it ended.

    `extra` is an open object by contract: the receipt (outcome, usage, limits, …) that
    `appliance.calls` builds, and whatever an older installation has put there. `body` and `result` are
    text; bytes that aren't UTF-8 are base64 with `extra.body_encoding` or `extra.result_encoding`.
    """

    id: str
    mongo_object_id: str | None = None
    code_id: str
    code_mongo_id: str | None = None
    status: RunStatus
    result: str = ""
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    params: dict[str, str] = msgspec.field(default_factory=dict)
    body: str = ""
    headers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    created_at: datetime
    updated_at: datetime


class CodeLog(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a run's log; `content` is at most 8000 characters."""

    id: str
    run_id: str
    code_id: str
    type: LogType
    content: str
    created_at: datetime
    updated_at: datetime


class CodeLib(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    mongo_object_id: str | None = None
    name: str
    language: Language
    created_at: datetime
    updated_at: datetime


class UserPermission(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    mongo_object_id: str | None = None
    project_uuid: str
    email: str
    role: Role
    created_at: datetime
    updated_at: datetime


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    user_email: str
    role: Role


class Project(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    mongo_object_id: str | None = None
    uuid: str
    name: str
    authorizations: tuple[Authorization, ...] = ()
    created_at: datetime
    updated_at: datetime


def new_id() -> str:
    return str(uuid.uuid4())


def now() -> datetime:
    return datetime.now(UTC)
