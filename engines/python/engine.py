"""What an action is given: `engine`, with the request to read, a log to write and a result to set."""

import functools
from collections.abc import ItemsView, Iterable, Mapping
from typing import NoReturn, Protocol, TypeVar, overload

from engines.python import checks
from engines.python.frames import Channel
from engines.python.text import cut, encode
from engines.python.values import to_bytes

T = TypeVar("T")


class EndRun(Protocol):
    """Ends the run as failed, here and now, whatever the action would catch."""

    def __call__(self, kind: str, message: str) -> NoReturn: ...


class Params:
    """The first value of each query parameter."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            self._values.setdefault(name, value)

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: T) -> str | T: ...
    def get(self, name: str, default: object = None) -> object:
        return self._values.get(name, default)

    def items(self) -> ItemsView[str, str]:
        return self._values.items()


class Header:
    """The request's headers: names in canonical form (`Custom-Header`), found by any case, with all their values."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(canonical(name), []).append(value)

    def get(self, name: str, default: str = "") -> str:
        values = self._values.get(canonical(name))
        return values[0] if values else default

    def items(self) -> ItemsView[str, list[str]]:
        return self._values.items()


def canonical(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))


class Log:
    """Entries of the run's log. A value that isn't a string is logged as its str()."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def debug(self, value: object = "") -> None:
        self._channel.log("debug", encode(cut(str(value))))

    def info(self, value: object = "") -> None:
        self._channel.log("info", encode(cut(str(value))))

    def error(self, value: object = "") -> None:
        self._channel.log("error", encode(cut(str(value))))


class Result:
    """The answer. `engine.result(…)` is `engine.result.set(…)`; the last call wins."""

    def __init__(self, channel: Channel, max_bytes: int, end_run: EndRun) -> None:
        self._channel = channel
        self._max_bytes = max_bytes
        self._end_run = end_run

    def set(
        self,
        value: object = "",
        status_code: int | str = 200,
        content_type: str = "text",
        headers: Mapping[str, object] | None = None,
    ) -> None:
        """Raises ValueError for a status, content type or header that can't be sent."""
        status = checks.status_code(status_code)
        media_type, pairs = _typed(checks.content_type(content_type), checks.headers(headers))
        blob = to_bytes(value, as_json=_is_json(media_type))
        if len(blob) > self._max_bytes:
            limit = f"the limit is {self._max_bytes} bytes (MAX_RESULT_BYTES)"
            self._end_run("output_limit", f"the result is {len(blob)} bytes, {limit}")
        header = {"type": "result", "status_code": status, "content_type": media_type, "headers": pairs}
        self._channel.send(header, blob)

    __call__ = set  # noqa: A003


def _typed(media_type: str, headers: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """A Content-Type among the headers is the content type, so that an answer never has two."""
    others = [(name, value) for name, value in headers if name.lower() != "content-type"]
    named = [value for name, value in headers if name.lower() == "content-type"]
    return (checks.content_type(named[-1]) if named else media_type), others


def _is_json(content_type: str) -> bool:
    essence = content_type.split(";")[0].strip().lower()
    return essence in ("json", "application/json") or essence.endswith("+json")


class Request:
    """The request as it came. `path` is without the query, `body_bytes` is the body before decoding."""

    def __init__(self, method: str, path: str, params: Params, header: Header, body_bytes: bytes, log: Log) -> None:
        self.method = method
        self.path = path
        self.params = params
        self.header = header
        self.body_bytes = body_bytes
        self.log = log

    @functools.cached_property
    def body(self) -> str:
        return self.body_bytes.decode("utf-8", "replace")


class Engine:
    """The argument of `Run`."""

    def __init__(self, request: Request, result: Result) -> None:
        self.request = request
        self.params = request.params
        self.header = request.header
        self.log = request.log
        self.result = result

    @functools.cached_property
    def body(self) -> str:
        """The body as text; bytes that aren't UTF-8 are replaced."""
        return self.request.body
