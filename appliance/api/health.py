"""`/`, `/healthz` and `/health`: whether there is a process, and whether it can do its work."""

from appliance.api.incoming import header
from appliance.api.routes import Auth, Context, Reply, Route, json
from appliance.health import Alive, Report


async def root(context: Context[None]) -> Reply:
    """A person gets the pages, a program the JSON. Until there are pages (`ui_path` is None), everybody gets the JSON."""
    ui_path = context.options.ui_path
    if ui_path is not None and b"text/html" in header(context.request, b"accept"):
        return Reply(status=302, content_type="text/plain", headers=(("Location", ui_path), ("Vary", "Accept")))
    return json(context.services.health.alive())


async def alive(context: Context[None]) -> Reply:
    return json(context.services.health.alive())


async def report(context: Context[None]) -> Reply:
    found = await context.services.health.report()
    return json(found, 200 if found.healthy else 503)


ROUTES = (
    Route(
        method="GET",
        path="/",
        summary="Whether the appliance is there; a browser is sent to the pages, once there are any",
        handler=root,
        auth=Auth.NONE,
        answers={200: Alive, 302: None},
    ),
    Route(
        method="GET",
        path="/healthz",
        summary="Whether the appliance is there; touches nothing behind it",
        handler=alive,
        auth=Auth.NONE,
        answers={200: Alive},
    ),
    Route(
        method="GET",
        path="/health",
        summary="Whether each service can be used",
        handler=report,
        auth=Auth.NONE,
        answers={200: Report, 503: Report},
    ),
)
