"""`codeactions run FILE`: a local file, run exactly as a call would be, without a server: an author's inner loop."""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from appliance import options, startup
from appliance.api.incoming import canonical
from appliance.builds import FOLDER, Builds, NotBuilt
from appliance.calls import Request, job_of
from appliance.codes import SOURCE_LIMIT, TOO_BIG
from appliance.entities import Code, CodeType, Language, new_id, now
from appliance.errors import CannotStart
from appliance.receipts import WITHOUT_BODY, status_of
from appliance.runner.launcher import Launcher, LauncherGone, connect
from appliance.runner.outcome import Job, LogEntry, Outcome
from appliance.runner.pool import Runner, Ticket
from appliance.settings import Loaded, Settings
from engines.table import spec_of

_LANGUAGES = {suffix: language for language in Language for suffix in spec_of(language).suffixes}
_PATH = "/action/endpoint/local"


def main(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Logs go to stderr, the result to stdout. 0 when the action completed, else 1. Raises `CannotStart`."""
    code, request = _code(Path(arguments.file)), _request(arguments)
    if len(request.body) > loaded.settings.max_body_bytes:
        raise CannotStart(f"-d: the body is over the limit of {loaded.settings.max_body_bytes} bytes (MAX_BODY_BYTES)")
    begun = startup.begin(loaded, "warning", listen=False)
    with TemporaryDirectory(ignore_cleanup_errors=True) as kept:
        outcome = trio.run(_run, loaded, begun, code, request, Path(kept))
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


async def _run(loaded: Loaded, begun: startup.Begun, code: Code, request: Request, kept: Path) -> Outcome:
    settings = loaded.settings
    async with connect(begun.launcher) as launcher, trio.open_nursery() as nursery:
        if launcher.floor:
            raise CannotStart(f"no run can start on this host: {launcher.floor}")
        if code.language not in launcher.languages:
            raise CannotStart(f"can't run {code.name}: {launcher.lacking[code.language]}")
        nursery.start_soon(_listen, launcher, name="launcher")
        runner = Runner(launcher, options.pool_options(settings), options.bounds(settings))
        limits = options.call_options(settings, instance="").limits_of(code)
        builds = Builds(launcher, nursery, options.build_options(settings, _folder(settings, kept)))
        with runner.admit(code.project_uuid) as ticket:
            outcome = await _execute(ticket, builds, job_of(new_id(), code, request, limits))
        nursery.cancel_scope.cancel()
    return outcome


def _folder(settings: Settings, temporary: Path) -> Path:
    """Programs are kept where the server keeps them, if we may write there."""
    kept = settings.state_dir / FOLDER
    return kept if os.access(kept, os.W_OK) else temporary


async def _execute(ticket: Ticket, builds: Builds, job: Job) -> Outcome:
    async with builds.program(job.language, job.source) as program:
        if isinstance(program, NotBuilt):
            for entry in program.entries:
                await _show(entry)
            return program.outcome
        return await ticket.run(msgspec.structs.replace(job, program=program), _show)


async def _listen(launcher: Launcher) -> None:
    with suppress(LauncherGone):  # the run's outcome says so
        await launcher.listen()


async def _show(entry: LogEntry) -> None:
    sys.stderr.write(f"{entry.type.value:5} {entry.content}\n")
    sys.stderr.flush()


def _code(path: Path) -> Code:
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
