"""What a store of the six entities promises; every backend keeps this, and one test file an interface checks it over all of them.

Common to all:

- An id is a UUID or a 24-hex-digit MongoDB ObjectID; the second finds the row whose `mongo_object_id` it is. What isn't there
  raises `NotFound`.
- A method that has returned has stored: what it wrote survives the death of the process. Writes of one caller keep their order.
- A store that can't do its work now (full disk, lock, lost connection) raises `StoreFailed`, and has changed nothing.
- Cancelling a call leaves the store whole; whether the write took place is then unknown.
- Text keeps every character but U+0000 and lone surrogates, which the caller replaces (`appliance.calls`).
- Times have microseconds. Lists that are "newest first" are ordered by (created_at, id), both descending.
- No method blocks the event loop.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from appliance.entities import Code, CodeLib, CodeLog, CodeRun, CodeType, Language, Project, RunStatus, UserPermission


class Codes(Protocol):
    async def create(self, code: Code) -> None: ...

    async def get(self, code_id: str) -> Code: ...

    async def of_project(self, project_uuid: str, code_type: CodeType | None) -> list[Code]:
        """All codes of a project, oldest first."""
        ...

    async def update(self, code: Code) -> None:
        """Replaces the row with this id; `NotFound` if it is gone. `created_at` and `mongo_object_id` never change."""
        ...

    async def delete(self, code_id: str) -> None:
        """Deletes the code; its runs and logs stay until the retention."""
        ...


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of one code with after <= created_at <= before, newest first, at most `limit`.

    `older_than` is the (created_at, id) of the last run of the page before; it is itself left out.
    """

    code_id: str
    after: datetime | None = None
    before: datetime | None = None
    limit: int = 1000
    older_than: tuple[datetime, str] | None = None


PAGE_BYTES = 32 << 20


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """`more`: there are older runs than the last of these that match."""

    runs: list[CodeRun]
    more: bool


class Runs(Protocol):
    async def create(self, run: CodeRun) -> None: ...

    async def get(self, run_id: str) -> CodeRun: ...

    async def page(self, query: RunQuery) -> RunPage:
        """At least one run if one matches; then fewer than `limit` when their bodies and results would pass `PAGE_BYTES`:
        a thousand runs of 20 MiB must not fill the memory."""
        ...

    async def start(self, run_id: str, at: datetime) -> None:
        """`queued` becomes `started`; does nothing to a run in another state."""
        ...

    async def finish(self, run_id: str, status: RunStatus, result: str, extra: dict[str, Any], at: datetime) -> bool:
        """Ends a run exactly once. False, and nothing changed, if it had ended already or isn't there.

        `extra` replaces what was kept.
        """
        ...

    async def close_abandoned(self, instance: str, not_seen_since: datetime, at: datetime) -> list[str]:
        """Ends as `failed`, outcome `interrupted`, every queued or started run whose `extra.instance` is another than
        `instance` and hasn't beaten since `not_seen_since` (or never); returns their ids. Runs without an owner stay as they are.

        The rest of `extra` stays; `outcome`, `message` and `status_code` (503) are set.
        """
        ...

    async def delete_older(self, before: datetime, limit: int) -> int:
        """Deletes at most `limit` runs created before that, oldest first; returns how many."""
        ...


class Instances(Protocol):
    async def beat(self, instance: str, host: str, at: datetime) -> None: ...

    async def forget(self, instance: str) -> None:
        """A clean end: the instance is no longer there. Of an unknown one: nothing."""
        ...


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """`total` counts all that match, not those of the page."""

    entries: list[CodeLog]
    total: int


class Logs(Protocol):
    async def append(self, entries: Sequence[CodeLog]) -> None:
        """Stores all of them or none. An entry whose id is there already is left as it is: a retry is harmless.

        Entries that were appended earlier count as older when their times are equal.
        """
        ...

    async def get(self, log_id: str) -> CodeLog: ...

    async def page(self, run_id: str | None, code_id: str | None, page: int, per_page: int) -> LogPage:
        """Newest first, of those that match every given id; `page` counts from 1. A page past the end is empty."""
        ...

    async def delete_older(self, before: datetime, limit: int) -> int: ...


class Libs(Protocol):
    async def create(self, lib: CodeLib) -> None:
        """`Conflict` when (name, language) is there."""
        ...

    async def find(self, name: str, language: Language) -> CodeLib: ...

    async def all(self, language: Language) -> list[CodeLib]:
        """By name."""
        ...

    async def delete(self, lib_id: str) -> None: ...


class Permissions(Protocol):
    async def create(self, permission: UserPermission) -> None:
        """`Conflict` when (project_uuid, email) is there."""
        ...

    async def find(self, project_uuid: str, email: str) -> UserPermission: ...

    async def of_project(self, project_uuid: str) -> list[UserPermission]:
        """By email."""
        ...

    async def update(self, permission: UserPermission) -> None: ...

    async def delete(self, permission_id: str) -> None: ...


class Projects(Protocol):
    async def create(self, project: Project) -> None:
        """`Conflict` when its uuid is there."""
        ...

    async def find(self, uuid: str) -> Project:
        """By the project's own uuid, not the row's id."""
        ...

    async def update(self, project: Project) -> None: ...

    async def delete(self, project_id: str) -> None: ...


class Storage(Protocol):
    """All repositories of one store, open and ready. `exclusive`: no other process can have it open, so that whoever owned
    a run of another instance is dead."""

    @property
    def exclusive(self) -> bool: ...
    @property
    def codes(self) -> Codes: ...
    @property
    def runs(self) -> Runs: ...
    @property
    def instances(self) -> Instances: ...
    @property
    def logs(self) -> Logs: ...
    @property
    def libs(self) -> Libs: ...
    @property
    def permissions(self) -> Permissions: ...
    @property
    def projects(self) -> Projects: ...

    async def check(self) -> None:
        """A round trip to the store, for `/health`; `StoreFailed` when it doesn't answer."""
        ...
