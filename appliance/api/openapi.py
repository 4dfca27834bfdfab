"""The API's document, made from the routes and the types that their handlers use."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from appliance.api.routes import ANY, Auth, Body, Route
from appliance.api.wire import Message
from appliance.fields import ID_PATTERN

_PARAMETER = re.compile(r"\{(\w+)\}")
# OpenAPI can't say "any method".
_EVERY = ("get", "put", "post", "delete", "patch")
_STATUS_TEXT = {
    200: "Done",
    201: "Created",
    202: "Accepted",
    302: "To the pages",
    400: "A value that can't be taken; the message names it",
    401: "No valid token",
    403: "No permission in the project",
    404: "No such thing",
    408: "The run passed its timeout",
    409: "Not in this state, or not on this host",
    413: "The body is over the limit",
    429: "Over the rate limit; Retry-After says when",
    500: "The action failed",
    503: "Full, or not ready",
}
_AUTH_FAILURES: dict[int, Any] = {401: Message, 403: Message}

Json = dict[str, Any]

# Of every answer that made a run; one that was refused has neither.
_ABOUT_RUN = {
    "X-Run-Id": {"description": "Which run it was", "schema": {"type": "string", "format": "uuid"}},
    "Server-Timing": {
        "description": "Where its time went, in milliseconds: queue, run (from its turn to its end), cpu",
        "schema": {"type": "string", "examples": ["queue;dur=0.021, run;dur=3.412, cpu;dur=2.950"]},
    },
}


def document(routes: Iterable[Route], version: str) -> Json:
    routes = tuple(routes)
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    named = dict(zip(map(str, types), schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Flows Code Actions", "version": version},
        "paths": _paths(routes, named, components),
        "components": {"schemas": components, "securitySchemes": {"token": _SECURITY}},
    }


_SECURITY = {
    "type": "apiKey",
    "in": "header",
    "name": "Authorization",
    "description": "Token <the admin token>, or Bearer <it>; for /run also Token <AUTH_TOKEN>",
}


def _types(routes: Iterable[Route]) -> list[Any]:
    wanted: dict[str, Any] = {str(Message): Message}
    for route in routes:
        for answer in (route.query, *route.answers.values()):
            if answer is not None and not isinstance(answer, str):
                wanted[str(answer)] = answer
    return list(wanted.values())


def _paths(routes: Iterable[Route], named: Mapping[str, Json], components: Json) -> Json:
    paths: Json = {}
    for route in routes:
        methods = _EVERY if route.method == ANY else (route.method.lower(),)
        for method in methods:
            paths.setdefault(route.path, {})[method] = _operation(route, method, named, components)
    return paths


def _operation(route: Route, method: str, named: Mapping[str, Json], components: Json) -> Json:
    operation: Json = {
        "operationId": f"{method}{re.sub(r'[^a-z]+', '_', route.path).rstrip('_')}",
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route, components)],
        "responses": _responses(route, named),
    }
    if route.auth is not Auth.NONE:
        operation["security"] = [{"token": []}]
    if route.body is not Body.NONE and method != "get":
        content = {"text/plain": {"schema": {"type": "string"}}} if route.body is Body.SOURCE else {"*/*": {"schema": {}}}
        operation["requestBody"] = {"content": content}
    return operation


def _path_parameters(route: Route) -> list[Json]:
    schema = {"type": "string", "pattern": f"^({ID_PATTERN})$"}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in _PARAMETER.findall(route.path)]


def _query_parameters(route: Route, components: Json) -> list[Json]:
    if route.query is None:
        return []
    struct = components[route.query.__name__]
    required = struct.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in struct["properties"].items()
    ]


def _responses(route: Route, named: Mapping[str, Json]) -> Json:
    answers = dict(route.answers)
    if route.auth is not Auth.NONE:
        answers |= _AUTH_FAILURES
    responses = {str(status): _response(status, answer, named) for status, answer in sorted(answers.items())}
    if route.method == ANY:  # an action says any status
        responses["default"] = {"description": "What the action said", "content": {"*/*": {}}}
    if "{code_id}" in route.path:
        for response in responses.values():
            response["headers"] = _ABOUT_RUN
    return responses


def _response(status: int, answer: Any, named: Mapping[str, Json]) -> Json:
    response: Json = {"description": _STATUS_TEXT[status]}
    if isinstance(answer, str):
        response["content"] = {answer: {"schema": {} if answer == "*/*" else {"type": "string"}}}
    elif answer is not None:
        response["content"] = {"application/json": {"schema": named[str(answer)]}}
    return response
