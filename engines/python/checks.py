"""What an action's answer may be: pure checks that raise ValueError with a message for the author.

The channel is writable by the tenant: the server repeats these checks on what it receives.
"""

import re
from collections.abc import Iterable, Mapping

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"'
_PARAMETER = rf"{_TOKEN.pattern}=(?:{_TOKEN.pattern}|{_QUOTED})"
# RFC 9110, 8.3.1. Blanks belong to what follows them, so that each text matches in one way only: with two, the time doubles
# with each semicolon, and it is the server's time. None at the end: HTTP/1.1 can't send them.
_MEDIA_TYPE = re.compile(rf"{_TOKEN.pattern}/{_TOKEN.pattern}(?:[ \t]*;(?:[ \t]*{_PARAMETER})?)*")
_STATUS_DIGITS = re.compile(r"0*[0-9]{3}")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
MAX_HEADER_BYTES = 16 * 1024  # names and values together: proxies in front refuse more
_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "trailers", "transfer-encoding", "upgrade"}
_PROXY = {"proxy-authenticate", "proxy-authorization"}
_OURS = {"content-length", "date", "server", "x-run-id"}
_WHOLE_ORIGIN = {"clear-site-data", "service-worker-allowed", "strict-transport-security"}  # would reach past this action
FORBIDDEN_HEADERS = frozenset(_HOP_BY_HOP | _PROXY | _OURS | _WHOLE_ORIGIN)
OWN_COOKIES = "codeactions"


def status_code(status: object) -> int:
    """A number from 200 to 599, given as such or as a string of digits."""
    is_number = isinstance(status, int) and not isinstance(status, bool)
    is_digits = isinstance(status, str) and _STATUS_DIGITS.fullmatch(status) is not None
    if is_number or is_digits:
        number = int(status)  # type: ignore[call-overload]
        if 200 <= number <= 599:
            return int(number)
    raise ValueError(f"status_code {_shown(status)}: it must be a number from 200 to 599")


def content_type(value: object) -> str:
    """`text`, `json`, `html`, another short word (served as plain text) or a media type with its parameters."""
    if isinstance(value, str) and len(value) <= 256 and (_TOKEN.fullmatch(value) or _MEDIA_TYPE.fullmatch(value)):
        return str(value)
    raise ValueError(f"content_type {_shown(value)}: it must be text, json, html or a media type such as text/csv")


def headers(given: object) -> list[tuple[str, str]]:
    """Name and value of each header, in order; a list of values is a header that is sent several times."""
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise ValueError(f"headers {_shown(given)}: it must be a dict of names and values")
    checked = [_header(name, value) for name, values in given.items() for value in _each(values)]
    if sum(len(name) + len(value) for name, value in checked) > MAX_HEADER_BYTES:
        raise ValueError(f"headers: more than {MAX_HEADER_BYTES} bytes in all")
    return checked


def _each(values: object) -> Iterable[object]:
    return values if isinstance(values, list | tuple) else (values,)


def _header(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ValueError(f"header {_shown(name)}: not a valid header name")
    if name.lower() in FORBIDDEN_HEADERS:
        raise ValueError(f"header {name}: an action may not set it")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"header {name}: its value must be a string or an integer, not {type(value).__name__}")
    text = str(value).strip(" \t")
    if not _VALUE.fullmatch(text):
        raise ValueError(f"header {name}: its value may hold only printable ASCII, no line breaks")
    if name.lower() == "set-cookie" and _is_own_cookie(text):
        raise ValueError(f"header {name}: cookies named {OWN_COOKIES}… belong to the appliance")
    return str(name), text


def _is_own_cookie(value: str) -> bool:
    """Browsers send a nameless cookie `=a=b` as `a=b`, so what comes before a name doesn't count."""
    name = value.lstrip(" \t=").lower()
    return name.removeprefix("__host-").removeprefix("__secure-").startswith(OWN_COOKIES)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
