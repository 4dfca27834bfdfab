"""What a route is: one table of these is what the app serves, and what `/openapi.json` says.

A handler is given a `Context` and returns a `Reply`; it raises the errors of `appliance.errors`, which become answers in
`api.failures`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec
from quart.wrappers import Request, Response

from appliance.access import Principal
from appliance.api import wire
from appliance.api.services import ApiOptions, Services

JSON = "application/json; charset=UTF-8"
ANY = "*"  # as a route's method: each that a client sends
# These two are about the connection, not about what is behind it.
NEVER = frozenset({"TRACE", "CONNECT"})

Q = TypeVar("Q")


class Auth(Enum):
    NONE = "none"
    MANAGEMENT = "management"
    RUN = "run"


class Body(Enum):
    NONE = "none"
    SOURCE = "source"
    FREE = "free"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    status: int = 200
    content_type: str = JSON
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Context(Generic[Q]):
    """One request, authenticated and with its query read. `id` is the path's one parameter, as it was sent."""

    services: "Services"
    options: "ApiOptions"
    request: Request
    principal: Principal
    id: str
    query: Q


@dataclass(frozen=True, kw_only=True)
class Route:
    """`answers`: by status, the type of the JSON, or the media type of something else, or None for an empty body."""

    method: str
    path: str
    summary: str
    handler: Callable[[Context[Any]], Awaitable[Reply]]
    answers: Mapping[int, Any]
    auth: Auth = Auth.MANAGEMENT
    query: type[Any] | None = None
    body: Body = Body.NONE


def json(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return Reply(status=status, body=wire.encode(value), headers=headers)


def response(reply: Reply) -> Response:
    made = Response(reply.body, status=reply.status, content_type=reply.content_type)
    for name, value in reply.headers:
        made.headers.add(name, value)
    if reply.status in (204, 304):  # neither has a body, so neither has a type or a length
        del made.headers["Content-Type"]
        del made.headers["Content-Length"]
    return made
