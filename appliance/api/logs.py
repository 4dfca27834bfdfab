"""`/codelog`: the log entries of a run or of a code, by pages; one entry."""

from typing import Annotated

import msgspec
from msgspec import Meta

from appliance.api.routes import Context, Reply, Route, json
from appliance.api.runs import OptionalId, project_of_code, project_of_run
from appliance.api.wire import LogOut, LogPageOut, Message, log_out
from appliance.entities import CodeLog
from appliance.errors import Invalid, NotFound
from appliance.fields import entity_id
from appliance.storage.interface import Storage

PER_PAGE = 20


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    run_id: OptionalId = ""
    code_id: OptionalId = ""
    # Bounded so that a store can count to it.
    page: Annotated[int, Meta(ge=1, le=1_000_000_000, description="a whole number from 1 to 1000000000")] = 1


async def page(context: Context[Wanted]) -> Reply:
    services, query = context.services, context.query
    if not query.run_id and not query.code_id:
        raise Invalid("run_id", "is required, or code_id")
    run_id, code_id, project = await _place(services.storage, query)
    await services.access.read(context.principal, project)
    found = await services.storage.logs.page(run_id, code_id, query.page, PER_PAGE)
    return json(
        LogPageOut(
            data=[log_out(entry) for entry in found.entries],
            total=found.total,
            page=query.page,
            last_page=-(-found.total // PER_PAGE),
        )
    )


async def get(context: Context[None]) -> Reply:
    entry = await context.services.storage.logs.get(entity_id("id", context.id))
    await context.services.access.read(context.principal, await _project_of(context.services.storage, entry))
    return json(log_out(entry))


async def _place(storage: Storage, query: Wanted) -> tuple[str | None, str | None, str]:
    """The ids that the entries have, which may not be those that were asked with, and the project that they are of."""
    code_id = entity_id("code_id", query.code_id) if query.code_id else None
    if query.run_id:
        run = await storage.runs.get(entity_id("run_id", query.run_id))
        project = await project_of_run(storage, run)
        return run.id, code_id and (await project_of_code(storage, code_id))[0], project
    assert code_id is not None
    return None, *await project_of_code(storage, code_id)


async def _project_of(storage: Storage, entry: CodeLog) -> str:
    try:
        return await project_of_run(storage, await storage.runs.get(entry.run_id))
    except NotFound:
        return (await project_of_code(storage, entry.code_id))[1]


ROUTES = (
    Route(
        method="GET",
        path="/codelog",
        summary=f"The log entries of a run or a code, newest first, {PER_PAGE} a page",
        handler=page,
        query=Wanted,
        answers={200: LogPageOut, 400: Message, 404: Message},
    ),
    Route(
        method="GET",
        path="/codelog/{id}",
        summary="A log entry",
        handler=get,
        answers={200: LogOut, 400: Message, 404: Message},
    ),
)
