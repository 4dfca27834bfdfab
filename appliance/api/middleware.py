"""What surrounds every request, outermost first: request log, CORS. They are ASGI, so that an unknown path has them too."""

import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import structlog

from appliance.metrics import Metrics

Message = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

# Where the app notes the route that it found: a path has ids in it, and would be a series each.
ROUTE = "codeactions.route"
UNKNOWN = "unknown"
# Asked every few seconds by machines; a line each would hide the others.
_QUIET = frozenset({"/healthz", "/health", "/metrics"})

CORS_METHODS = "GET, POST, PUT, PATCH, DELETE"
_EXPOSED = "X-Run-Id, Server-Timing, Link, Retry-After"
_PREFLIGHT_KEPT_S = 600

Networks = tuple[IPv4Network | IPv6Network, ...]

log = structlog.get_logger()


def note_route(scope: Any, path: str) -> None:
    """For the log and the metrics."""
    scope[ROUTE] = path


class RequestLog:
    """One line and one count a request: what was asked, what was answered, how long it took."""

    def __init__(self, app: App, metrics: Metrics, trusted_proxies: Networks) -> None:
        self._app = app
        self._metrics = metrics
        self._trusted = trusted_proxies

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 499  # the client went away before there was an answer

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Any, status: int, seconds: float) -> None:
        route = scope.get(ROUTE, UNKNOWN)
        self._metrics.http(scope["method"], route, status, seconds)
        if route not in _QUIET or status >= 500:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 2),
                client=client_of(scope, self._trusted),
            )


def client_of(scope: Any, trusted: Networks) -> str:
    """Whose request it is: behind proxies that are trusted, the last address that none of them has."""
    peer = (scope.get("client") or ("",))[0]
    if not trusted or not _within(peer, trusted):
        return str(peer)
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    for address in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        if not _within(address, trusted):
            return address
        peer = address
    return str(peer)


def _within(address: str, networks: Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


class Cors:
    """Lets pages of the allowed origins read what they asked for; everybody else gets the answer without those headers."""

    def __init__(self, app: App, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = self._headers(scope)

        async def allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in added if name != b"vary"}
                kept = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message["headers"] = [*kept, *added]
            await send(message)

        await self._app(scope, receive, allowed)

    def _headers(self, scope: Any) -> list[tuple[bytes, bytes]]:
        sent = dict(scope["headers"])
        origin = sent.get(b"origin")
        anybody = b"*" in self._origins
        added = [] if anybody else [(b"vary", b"Origin")]
        if origin is None or not (anybody or origin in self._origins):
            return added
        added.append((b"access-control-allow-origin", b"*" if anybody else origin))
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in sent:
            return [*added, *_preflight(sent.get(b"access-control-request-headers"))]
        return [*added, (b"access-control-expose-headers", _EXPOSED.encode())]


def _preflight(wanted: bytes | None) -> list[tuple[bytes, bytes]]:
    answer = [
        (b"access-control-allow-methods", CORS_METHODS.encode()),
        (b"access-control-max-age", str(_PREFLIGHT_KEPT_S).encode()),
    ]
    return [*answer, (b"access-control-allow-headers", wanted)] if wanted else answer
