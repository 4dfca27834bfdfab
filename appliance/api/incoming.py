"""What a request carries, out of its raw bytes: query, headers, body.

Quart's own header collection isn't used: it adds a `Remote-Addr` that nobody sent.
"""

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import parse_qsl

import trio
from quart.wrappers import Request
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from appliance.codes import SOURCE_LIMIT, TOO_BIG
from appliance.errors import Invalid


def query_of(raw: bytes) -> dict[str, str]:
    """The first value of each parameter; what isn't UTF-8 is refused by name."""
    values: dict[str, str] = {}
    # Latin-1 gives every byte through, so that the check is ours.
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True, encoding="latin-1"):
        if name not in values:
            values[name] = _utf8(name, value)
    return values


def _utf8(name: str, value: str) -> str:
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise Invalid(name, "takes UTF-8 text") from None


def action_params(raw: bytes) -> tuple[tuple[str, str], ...]:
    """As the action sees them: the first value of each, undecodable bytes replaced."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        values.setdefault(name, value)
    return tuple(values.items())


def action_headers(raw: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """As the action sees them: names in canonical form, all of them, in order."""
    return tuple((canonical(name), _text(value)) for name, value in raw)


@lru_cache(maxsize=256)  # bounded: the names are the callers'
def canonical(name: bytes) -> str:
    return "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))


def _text(value: bytes) -> str:
    """A header has no encoding: UTF-8 where it is that, else a character a byte, which never fails."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def header(request: Request, name: bytes) -> bytes:
    """The first header of this lower-case name, or nothing."""
    return next((value for key, value in request.scope["headers"] if key.lower() == name), b"")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; over the limit it is 413, however it comes."""
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    if len(body) > limit:
        raise RequestEntityTooLarge
    return body


async def read_source(request: Request) -> bytes:
    """A source's bytes, never much more than a source may have: over that it is refused as too big, not as 413."""
    source = bytearray()
    with trio.move_on_after(request.body_timeout or float("inf")) as waited:
        try:
            async for chunk in request.body:
                if len(source) < SOURCE_LIMIT:  # the rest is read and dropped: a client that still sends doesn't read
                    source += chunk
        except RequestEntityTooLarge:
            raise Invalid("", TOO_BIG) from None
    if waited.cancelled_caught:
        raise RequestTimeout
    return bytes(source)
