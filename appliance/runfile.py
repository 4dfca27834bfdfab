"""`codeactions run FILE`: a local file, run exactly as a call would be, without a server: an author's inner loop."""

import argparse
import sys
from pathlib import Path

import trio

from appliance import startup
from appliance.api.incoming import canonical
from appliance.calls import Request
from appliance.codes import SOURCE_LIMIT, TOO_BIG
from appliance.entities import Code, CodeType, Language, new_id, now
from appliance.errors import CannotStart
from appliance.localrunner import open_launcher, refuse_floor, run_once
from appliance.receipts import WITHOUT_BODY, status_of
from appliance.runner.outcome import LogEntry, Outcome
from appliance.settings import Loaded
from engines.table import spec_of

_LANGUAGES = {suffix: language for language in Language for suffix in spec_of(language).suffixes}
_PATH = "/action/endpoint/local"


def main(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Logs go to stderr, the result to stdout. 0 when the action completed, else 1. Raises `CannotStart`."""
    code, request = code_of(Path(arguments.file)), _request(arguments)
    if len(request.body) > loaded.settings.max_body_bytes:
        raise CannotStart(f"-d: the body is over the limit of {loaded.settings.max_body_bytes} bytes (MAX_BODY_BYTES)")
    begun = startup.begin(loaded, "warning", listen=False)
    outcome = trio.run(_run, loaded, begun, code, request)
    if outcome.result is None:
        sys.stderr.write(f"{outcome.kind}: {outcome.message}\n")
        return 1
    _describe(outcome)
    if outcome.result.status_code not in WITHOUT_BODY:
        sys.stdout.buffer.write(outcome.result.value)
        if sys.stdout.isatty() and not outcome.result.value.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")  # a prompt begins on a line of its own
    sys.stdout.flush()
    return 0


def _describe(outcome: Outcome) -> None:
    """To a person, what a caller would see in the answer's head."""
    if outcome.result is not None and sys.stderr.isatty():
        wall = f"{outcome.usage.wall_ms:.0f} ms" if outcome.usage.wall_ms is not None else ""
        sys.stderr.write(f"{status_of(outcome)} {outcome.result.content_type} {wall}\n")
        sys.stderr.writelines(f"{name}: {value}\n" for name, value in outcome.result.headers)


async def _run(loaded: Loaded, begun: startup.Begun, code: Code, request: Request) -> Outcome:
    async with open_launcher(begun) as launcher:
        refuse_floor(launcher)
        if code.language not in launcher.languages:
            raise CannotStart(f"can't run {code.name}: {launcher.lacking[code.language]}")
        return await run_once(launcher, loaded.settings, code, request, _show)


async def _show(entry: LogEntry) -> None:
    sys.stderr.write(f"{entry.type.value:5} {entry.content}\n")
    sys.stderr.flush()


def code_of(path: Path) -> Code:
    """A local file as a code that nobody has stored. Raises `CannotStart`."""
    try:
        source = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8 text"
        raise CannotStart(f"{path} can't be read: {reason}") from None
    if len(source.encode()) >= SOURCE_LIMIT:
        raise CannotStart(f"{path}: {TOO_BIG}")
    language = _LANGUAGES.get(path.suffix)
    if language is None:
        raise CannotStart(f"{path}: the suffix says the language: {', '.join(_LANGUAGES)}")
    at = now()
    return Code(
        id=new_id(),
        name=path.name,
        type=CodeType.ENDPOINT,
        source=source,
        language=language,
        project_uuid="local",
        created_at=at,
        updated_at=at,
    )


def _request(arguments: argparse.Namespace) -> Request:
    body = _body(arguments.data)
    params: dict[str, str] = {}
    for text in arguments.param:
        name, value = _pair("-p", text, "=")
        params.setdefault(name, value)
    headers = [_pair("-H", text, ":") for text in arguments.header]
    return Request(
        method=arguments.method or ("POST" if body else "GET"),
        path=_PATH,
        params=tuple(params.items()),
        headers=tuple((canonical(name.encode()), value.strip()) for name, value in headers),
        body=body,
    )


def _pair(option: str, text: str, separator: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise CannotStart(f"{option} {text}: takes NAME{separator}VALUE")
    return name.strip(), value


def _body(data: str) -> bytes:
    """curl's spelling: @FILE, and @- for standard input."""
    if data == "@-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise CannotStart(f"-d {data}: can't be read: {error.strerror}") from None
