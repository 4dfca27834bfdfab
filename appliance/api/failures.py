"""Every error is `{"message": …}` with its status; a defect of ours is logged with its traceback, which nobody is shown."""

import math

from quart.wrappers import Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from appliance.api.routes import Reply, json, response
from appliance.api.wire import Message
from appliance.errors import Busy, Conflict, Forbidden, Invalid, NotFound, StoreFailed, TooMany, Unauthenticated

EXPECTED = (NotFound, Conflict, Invalid, Unauthenticated, Forbidden, TooMany, Busy, StoreFailed)

_STATUS: dict[type[Exception], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooMany: 429,
    Busy: 503,
    StoreFailed: 503,
}
_STORE_AGAIN_S = 5  # a full disk or a lost connection takes somebody's attention, a lock milliseconds
_CHALLENGE = ("WWW-Authenticate", 'Token realm="codeactions"')
_MESSAGES = {
    404: "no such path",
    408: "the request's body didn't arrive in time",
    500: "internal error; the appliance's log says more",
}


def failed(status: int, message: str, *headers: tuple[str, str]) -> Reply:
    return json(Message(message), status, headers)


def expected(error: Exception) -> Reply:
    """The answer to one of `EXPECTED`."""
    status = _STATUS[type(error)]
    match error:
        case TooMany() | Busy():
            return failed(status, str(error), retry_after(error.retry_after))
        case StoreFailed():
            return failed(status, str(error), retry_after(_STORE_AGAIN_S))
        case Unauthenticated():
            return failed(status, str(error), _CHALLENGE)
        case _:
            return failed(status, str(error))


def retry_after(seconds: float) -> tuple[str, str]:
    """Whole seconds, and at least one: a 0 invites the caller back at once."""
    return ("Retry-After", str(max(1, math.ceil(seconds))))


def not_allowed(allowed: str) -> Reply:
    return failed(405, f"this method isn't allowed here; allowed: {allowed}", ("Allow", allowed))


def too_large(limit: int) -> Reply:
    return failed(413, f"the body is over the limit of {limit} bytes (MAX_BODY_BYTES)")


def of_framework(limit: int, error: HTTPException) -> Response:
    """What Quart finds out by itself: no route, no such method, a body over the limit, an exception nobody expected."""
    if isinstance(error, MethodNotAllowed):
        return response(not_allowed(", ".join(sorted(error.valid_methods or ()))))
    if isinstance(error, RequestEntityTooLarge):
        return response(too_large(limit))
    status = error.code or 500
    return response(failed(status, _MESSAGES.get(status) or str(error.name).lower()))
