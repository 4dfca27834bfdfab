"""`/coderun`: the runs of a code, by pages; one run; its end before its time."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from appliance.api.routes import Context, Reply, Route, json
from appliance.api.wire import Message, RunOut, run_out
from appliance.entities import CodeRun
from appliance.errors import NotFound
from appliance.fields import ID_PATTERN, entity_id, time
from appliance.storage.interface import RunQuery, Storage

MOST = 1000  # runs a page
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_TIME = "a date, or a time such as 2024-12-10T00:00:00, with or without a zone"
# The last run of a page: microseconds since 1970 of its creation, and its id.
_PLACE = f"^([0-9]{{1,16}}~({ID_PATTERN}))?$"
Time = Annotated[
    str, Meta(description=_TIME, extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}, {"maxLength": 0}]})
]
_ID = "a UUID, or an ObjectID of 24 hex digits"
Id = Annotated[str, Meta(description=_ID, pattern=f"^({ID_PATTERN})$")]
OptionalId = Annotated[str, Meta(description=_ID, pattern=f"^({ID_PATTERN})?$")]


class OfCode(msgspec.Struct, frozen=True, kw_only=True):
    code_id: Id
    after: Time = ""
    before: Time = ""
    limit: Annotated[int, Meta(ge=1, le=MOST, description=f"a whole number from 1 to {MOST}")] = MOST
    older_than: Annotated[str, Meta(description="what a page's Link to the next one has", pattern=_PLACE)] = ""


async def of_code(context: Context[OfCode]) -> Reply:
    services, query = context.services, context.query
    wanted = _wanted(query)
    code_id, project = await project_of_code(services.storage, wanted.code_id)
    await services.access.read(context.principal, project)
    page = await services.storage.runs.page(msgspec.structs.replace(wanted, code_id=code_id, limit=query.limit))
    link = (_next_page(query, page.runs[-1]),) if page.more else ()
    return json([run_out(run) for run in page.runs], headers=link)


async def get(context: Context[None]) -> Reply:
    run = await _run(context)
    await context.services.access.read(context.principal, await project_of_run(context.services.storage, run))
    return json(run_out(run))


async def cancel(context: Context[None]) -> Reply:
    services = context.services
    run = await _run(context)
    await services.access.write(context.principal, await project_of_run(services.storage, run))
    await services.calls.cancel(run.id)
    return json(run_out(run), 202)


async def project_of_run(storage: Storage, run: CodeRun) -> str:
    """Whose a run is; of a deleted code, what the run itself says, and "" (administrators only) where it says nothing."""
    try:
        return (await storage.codes.get(run.code_id)).project_uuid
    except NotFound:
        return str(run.extra.get("project_uuid") or "")


async def project_of_code(storage: Storage, code_id: str) -> tuple[str, str]:
    """The code's own id, since it may be asked for by its ObjectID, and its project; also of a deleted one with runs left."""
    try:
        code = await storage.codes.get(code_id)
    except NotFound:
        runs = (await storage.runs.page(RunQuery(code_id=code_id, limit=1))).runs
        return code_id, str(runs[0].extra.get("project_uuid") or "") if runs else ""
    return code.id, code.project_uuid


async def _run(context: Context[None]) -> CodeRun:
    return await context.services.storage.runs.get(entity_id("id", context.id))


def _wanted(query: OfCode) -> RunQuery:
    return RunQuery(
        code_id=entity_id("code_id", query.code_id),
        after=time("after", query.after) if query.after else None,
        before=time("before", query.before) if query.before else None,
        older_than=_place(query.older_than) if query.older_than else None,
    )


def _place(value: str) -> tuple[datetime, str]:
    at, _, run_id = value.partition("~")
    return _EPOCH + timedelta(microseconds=int(at)), run_id.lower()


def _next_page(query: OfCode, last: CodeRun) -> tuple[str, str]:
    """RFC 8288; a reference from the root, which keeps the query but for the page's place."""
    asked = {name: value for name, value in msgspec.structs.asdict(query).items() if value}
    asked["older_than"] = f"{(last.created_at - _EPOCH) // timedelta(microseconds=1)}~{last.id}"
    return ("Link", f'</coderun?{urlencode(asked)}>; rel="next"')


ROUTES = (
    Route(
        method="GET",
        path="/coderun",
        summary="The runs of a code, newest first; Link has the next page",
        handler=of_code,
        query=OfCode,
        answers={200: list[RunOut], 400: Message},
    ),
    Route(
        method="GET",
        path="/coderun/{id}",
        summary="A run",
        handler=get,
        answers={200: RunOut, 400: Message, 404: Message},
    ),
    Route(
        method="POST",
        path="/coderun/{id}/cancel",
        summary="Cancel a run; it ends as cancelled",
        handler=cancel,
        answers={202: RunOut, 400: Message, 404: Message, 409: Message},
    ),
)
