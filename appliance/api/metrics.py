"""`/metrics`: for everybody, but only a token shows the ids of codes."""

from appliance.api.incoming import header
from appliance.api.routes import Auth, Context, Reply, Route
from appliance.metrics import CONTENT_TYPE


async def metrics(context: Context[None]) -> Reply:
    with_ids = context.services.access.may_see_code_ids(header(context.request, b"authorization"))
    return Reply(content_type=CONTENT_TYPE, body=context.services.metrics.render(with_ids=with_ids))


ROUTES = (
    Route(
        method="GET",
        path="/metrics",
        summary="Figures for Prometheus; ids of codes are hashed unless METRICS_TOKEN or the admin token is sent",
        handler=metrics,
        auth=Auth.NONE,
        answers={200: "text/plain"},
    ),
)
