"""`/code`: creating, reading, changing and deleting codes.

A creation is done in the contract's order: authenticate → read the query → permission → read the body → size → type → language →
blacklist → store.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from appliance.api.incoming import read_source
from appliance.api.routes import Body, Context, Reply, Route, json
from appliance.api.services import Services
from appliance.api.wire import CodeOut, Message, code_out
from appliance.codes import Change, Name, NewCode
from appliance.entities import Code, CodeType
from appliance.errors import Invalid
from appliance.fields import entity_id

_TYPES = {"": None, CodeType.ENDPOINT.value: CodeType.ENDPOINT, CodeType.FLOW.value: CodeType.FLOW}


class OfProject(msgspec.Struct, frozen=True, kw_only=True):
    project_uuid: Name
    code_type: Annotated[str, Meta(description="endpoint or flow", extra_json_schema={"enum": list(_TYPES)})] = ""


async def create(context: Context[NewCode]) -> Reply:
    services = context.services
    await services.access.write(context.principal, context.query.project_uuid)
    code = context.options.rules.created(context.query, await read_source(context.request))
    await services.storage.codes.create(code)
    services.metrics.code_created(code)
    return json(_begun(services, code), 201)


async def of_project(context: Context[OfProject]) -> Reply:
    query = context.query
    if query.code_type not in _TYPES:
        raise Invalid("code_type", "takes endpoint or flow")
    await context.services.access.read(context.principal, query.project_uuid)
    codes = await context.services.storage.codes.of_project(query.project_uuid, _TYPES[query.code_type])
    return json([_shown(context.services, code) for code in codes])


async def get(context: Context[None]) -> Reply:
    code = await _code(context)
    await context.services.access.read(context.principal, code.project_uuid)
    return json(_shown(context.services, code))


async def change(context: Context[Change]) -> Reply:
    services = context.services
    code = await _code(context)
    await services.access.write(context.principal, code.project_uuid)
    changed = context.options.rules.changed(code, context.query, await read_source(context.request))
    await services.storage.codes.update(changed)
    services.metrics.code_updated(changed)
    return json(_begun(services, changed))


async def delete(context: Context[None]) -> Reply:
    """First the code, so that no further run begins; then the runs that are in flight."""
    services = context.services
    code = await _code(context)
    await services.access.write(context.principal, code.project_uuid)
    await services.storage.codes.delete(code.id)
    await services.calls.cancel_code(code.id)
    return Reply(status=200)


async def _code(context: Context[Change] | Context[None]) -> Code:
    return await context.services.storage.codes.get(entity_id("id", context.id))


def _begun(services: Services, code: Code) -> CodeOut:
    """After a save: it is compiled in the background, so that the first call needn't wait."""
    services.builds.begin(code.language, code.source, code.project_uuid)
    return _shown(services, code)


def _shown(services: Services, code: Code) -> CodeOut:
    return code_out(code, services.builds.state(code.language, code.source))


def _routes(prefix: str) -> tuple[Route, ...]:
    """The two that exist under `/admin` too."""
    refused = {400: Message, 409: Message}
    return (
        Route(
            method="POST",
            path=f"{prefix}/code",
            summary="Create a code; the body is its source",
            handler=create,
            query=NewCode,
            body=Body.SOURCE,
            answers={201: CodeOut, **refused},
        ),
        Route(
            method="PATCH",
            path=f"{prefix}/code/{{id}}",
            summary="Change a code; what isn't sent stays, an empty body leaves the source",
            handler=change,
            query=Change,
            body=Body.SOURCE,
            answers={200: CodeOut, **refused, 404: Message},
        ),
    )


ROUTES = (
    *_routes(""),
    *_routes("/admin"),
    Route(
        method="GET",
        path="/code",
        summary="The codes of a project",
        handler=of_project,
        query=OfProject,
        answers={200: list[CodeOut], 400: Message},
    ),
    Route(
        method="GET",
        path="/code/{id}",
        summary="A code",
        handler=get,
        answers={200: CodeOut, 400: Message, 404: Message},
    ),
    Route(
        method="DELETE",
        path="/code/{id}",
        summary="Delete a code; its runs in flight are cancelled, what it ran stays readable",
        handler=delete,
        answers={200: None, 400: Message, 404: Message},
    ),
)
