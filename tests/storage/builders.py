"""Whole entities of which a test says only what it is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

from appliance.entities import (
    Code,
    CodeLib,
    CodeLog,
    CodeRun,
    CodeType,
    Language,
    LogType,
    Project,
    Role,
    RunStatus,
    UserPermission,
    new_id,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
MONGO_ID = "65a1b2c3d4e5f60718293a4b"
# What a careless store would lose: quotes, a line end of each kind, characters outside the BMP, blanks at the ends.
AWKWARD = "  'a' \"b\" \\ \r\n\t \x01 \u2028 é 漢 🦜 %s :x ? \n"


def minutes(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


def a_code(**given: Any) -> Code:
    usual: dict[str, Any] = {
        "id": new_id(),
        "name": "greet",
        "type": CodeType.ENDPOINT,
        "source": "def Run(engine): pass\n",
        "language": Language.PYTHON,
        "project_uuid": "project-1",
        "created_at": NOON,
        "updated_at": NOON,
    }
    return Code(**usual | given)


def a_run(**given: Any) -> CodeRun:
    usual: dict[str, Any] = {
        "id": new_id(),
        "code_id": "code-1",
        "status": RunStatus.STARTED,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return CodeRun(**usual | given)


def a_log(**given: Any) -> CodeLog:
    usual: dict[str, Any] = {
        "id": new_id(),
        "run_id": "run-1",
        "code_id": "code-1",
        "type": LogType.INFO,
        "content": "said",
        "created_at": NOON,
        "updated_at": NOON,
    }
    return CodeLog(**usual | given)


def a_lib(**given: Any) -> CodeLib:
    usual: dict[str, Any] = {
        "id": new_id(),
        "name": "requests",
        "language": Language.PYTHON,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return CodeLib(**usual | given)


def a_permission(**given: Any) -> UserPermission:
    usual: dict[str, Any] = {
        "id": new_id(),
        "project_uuid": "project-1",
        "email": "owner@example.com",
        "role": Role.VIEWER,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return UserPermission(**usual | given)


def a_project(**given: Any) -> Project:
    usual: dict[str, Any] = {"id": new_id(), "uuid": "project-1", "name": "Shop", "created_at": NOON, "updated_at": NOON}
    return Project(**usual | given)
