"""The HTTP API: one table of routes, and what every request passes on its way to one.

request log → CORS → authentication → rate limit (of an action, in `appliance.calls`) → handler
"""

from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from ipaddress import ip_network
from typing import Any

from quart import request as current_request
from quart.wrappers import Request, Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from appliance import fields
from appliance.api import actions, codes, failures, health, logs, metrics, runs, wire
from appliance.api.auth import authenticate
from appliance.api.connections import Connection, Lingering, contain_failures
from appliance.api.incoming import query_of
from appliance.api.middleware import Cors, RequestLog, note_route
from appliance.api.openapi import document
from appliance.api.routes import ANY, NEVER, Auth, Context, Reply, Route, response
from appliance.api.services import ApiOptions, Services
from appliance.codes import SOURCE_LIMIT


def make_app(services: Services, options: ApiOptions) -> QuartTrio:
    """The application for Hypercorn, which is taught here to keep one connection's failure to itself."""
    contain_failures()
    app = QuartTrio("appliance.api")
    app.asgi_http_class = Connection
    # What Quart keeps of a body that no handler has read yet; a source may come near its limit even where bodies may not.
    app.config["MAX_CONTENT_LENGTH"] = max(options.max_body_bytes, SOURCE_LIMIT)
    app.url_map.merge_slashes = False  # `//code` is no path of ours, and no redirect
    app.register_error_handler(HTTPException, partial(_framework_error, options.max_body_bytes))
    for path, routes in _by_path(_routes(options.version)).items():
        _serve(app, services, options, path, routes)
    _surround(app, services, options)
    return app


def _routes(version: str) -> tuple[Route, ...]:
    routes = (*health.ROUTES, *metrics.ROUTES, *codes.ROUTES, *runs.ROUTES, *logs.ROUTES, *actions.ROUTES)
    return (*routes, _openapi(routes, version))


def _openapi(routes: Iterable[Route], version: str) -> Route:
    """Made once, at the start."""
    rendered: list[bytes] = []

    async def openapi(context: Context[None]) -> Reply:
        return Reply(body=rendered[0])

    route = Route(
        method="GET",
        path="/openapi.json",
        summary="This document",
        handler=openapi,
        auth=Auth.NONE,
        answers={200: dict[str, Any]},
    )
    rendered.append(wire.encode(document((*routes, route), version)))
    return route


def _by_path(routes: Iterable[Route]) -> dict[str, dict[str, Route]]:
    paths: defaultdict[str, dict[str, Route]] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method] = route
    return paths


def _serve(app: QuartTrio, services: Services, options: ApiOptions, path: str, routes: dict[str, Route]) -> None:
    async def view(**ids: str) -> Response:
        return await _answer(services, options, routes, _request(), next(iter(ids.values()), ""))

    # No list of methods: `routes` says which there are, and an action takes each that a client sends.
    rule = app.url_rule_class(path.replace("{", "<").replace("}", ">"), endpoint=path)
    app.url_map.add(rule)
    app.view_functions[path] = view


def _request() -> Request:
    """The request itself rather than Quart's proxy of it, which looks it up at every use."""
    found: Request = current_request._get_current_object()  # type: ignore[attr-defined]
    return found


async def _answer(services: Services, options: ApiOptions, routes: dict[str, Route], request: Request, id_: str) -> Response:
    method = request.method
    route = _route(routes, method)
    note_route(request.scope, (route or next(iter(routes.values()))).path)
    if route is None:
        return response(failures.not_allowed(_allowed(routes)))
    if method == "OPTIONS":
        return response(Reply(status=204, headers=(("Allow", _allowed(routes)),)))
    try:
        return response(await _handled(services, options, route, request, id_))
    except failures.EXPECTED as error:
        return response(failures.expected(error))
    except ExceptionGroup as group:
        # Quart answers a single exception with our 500, and lets a group through to the server, which has no answer for it.
        raise RuntimeError("several tasks of a request failed") from group


async def _handled(services: Services, options: ApiOptions, route: Route, request: Request, id_: str) -> Reply:
    principal = await authenticate(services.access, route.auth, request)
    query = fields.read(query_of(request.scope["query_string"]), route.query) if route.query else None
    context = Context(services=services, options=options, request=request, principal=principal, id=id_, query=query)
    return await route.handler(context)


def _route(routes: dict[str, Route], method: str) -> Route | None:
    """The route that a method asks for; of OPTIONS, any of the path's, since all that it gets is the list."""
    if method in NEVER:
        return None
    if method == "OPTIONS":
        return next(iter(routes.values()))
    return routes.get(ANY) or routes.get("GET" if method == "HEAD" else method)


def _allowed(routes: dict[str, Route]) -> str:
    if ANY in routes:
        return "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    return ", ".join(sorted({*routes, "OPTIONS", *(["HEAD"] if "GET" in routes else [])}))


async def _framework_error(max_body_bytes: int, error: HTTPException) -> Response:
    return failures.of_framework(max_body_bytes, error)


def _surround(app: QuartTrio, services: Services, options: ApiOptions) -> None:
    inner: Callable[[Any, Any, Any], Coroutine[Any, Any, None]] = app.asgi_app
    surrounded = Cors(inner, options.cors_origins) if options.cors_origins else inner
    trusted = tuple(ip_network(proxy, strict=False) for proxy in options.trusted_proxies)
    app.asgi_app = Lingering(RequestLog(surrounded, services.metrics, trusted))  # type: ignore[method-assign]
