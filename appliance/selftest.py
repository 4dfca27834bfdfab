"""`codeactions selftest`: whether this installation is whole. The build asks it of the binary that it has made.

Every module of ours imports, engines and their data are there, an action runs in each language that this host has, and whatever
the sandboxes' Python imports outside a sandbox it imports inside. What the host lacks is said, and is no failure.
"""

import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import trio

import appliance
import engines
import ui
from appliance import localrunner, program, runfile, startup
from appliance.calls import Request
from appliance.entities import Language
from appliance.errors import CannotStart
from appliance.runner.launcher import Launcher
from appliance.runner.outcome import LogEntry, Outcome
from appliance.settings import Loaded, Settings
from engines.spec import Stage
from engines.table import spec_of

_TEXT = "what goes in comes out"
# antigravity opens a browser, this prints; importing writes warnings of what will be removed.
_IMPORT_ALL = """
import contextlib, io, json, sys
absent = []
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for name in sorted(sys.stdlib_module_names - {"antigravity", "this"}):
        try:
            __import__(name)
        except ImportError:
            absent.append(name)
"""
_PRINT = "print(json.dumps([sys.executable, absent]))\n"
_ZONE = "import zoneinfo\nzoneinfo.ZoneInfo('America/Sao_Paulo')\n"


class Broken(Exception):
    """The message says what is wrong."""


def main(loaded: Loaded) -> int:
    """A line for each thing looked at, to stdout. 0 when all is well."""
    good = all([_say(_imports), _say(_engines)])
    try:
        begun = startup.begin(loaded, "warning", listen=False)
        return int(not trio.run(_runs, loaded.settings, begun, good))
    except CannotStart as error:
        sys.stdout.write(f"FAILED   {error}\n")
        return 1


def _say(check: Callable[[], str]) -> bool:
    try:
        sys.stdout.write(f"ok       {check()}\n")
    except Broken as broken:
        sys.stdout.write(f"FAILED   {broken}\n")
        return False
    return True


def _imports() -> str:
    names = [*_modules(appliance.__path__, "appliance."), *_modules(ui.__path__, "ui."), "engines.spec", "engines.table"]
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken module does when it is imported
            raise Broken(f"{name} can't be imported: {type(error).__name__}: {error}") from error
    return f"{len(names)} modules import"


def _modules(path: list[str], prefix: str) -> Iterator[str]:
    for found in pkgutil.walk_packages(path, prefix):
        if not found.name.endswith("__main__"):
            yield found.name


def _engines() -> str:
    """A zygote imports its engine from source, inside; here it is enough that the files are there."""
    there = []
    for language in Language:
        missing = [stage.preload for stage in _stages(language) if not _has_source(stage.preload)]
        if not missing:
            there.append(language.value)
        elif len(missing) < len(_stages(language)):  # with none of them, this version doesn't have the language
            raise Broken(f"the source of {missing[0]} isn't there")
    return f"the engines of {', '.join(there)} are there"


def _stages(language: Language) -> list[Stage]:
    spec = spec_of(language)
    return [stage for stage in (spec.run, spec.more, spec.build) if stage is not None]


def _has_source(module: str) -> bool:
    place = importlib.util.find_spec(module)
    return place is not None and (place.origin or "").endswith(".py") and Path(place.origin or "").is_file()


async def _runs(settings: Settings, begun: startup.Begun, good: bool) -> bool:
    async with localrunner.open_launcher(begun) as launcher, aclosing(_lines(launcher, settings)) as lines:
        localrunner.refuse_floor(launcher)
        async for mark, line in lines:
            sys.stdout.write(f"{mark:8} {line}\n")
            good = good and mark != "FAILED"
    return good


async def _lines(launcher: Launcher, settings: Settings) -> AsyncGenerator[tuple[str, str], None]:
    for language in Language:
        if language not in launcher.languages:
            yield "absent", f"{language}: {launcher.lacking[language]}"
            continue
        outcome, logs = await run_sample(launcher, settings, language)
        mark = "ok" if answers_as_it_must(outcome, logs) else "FAILED"
        yield mark, f"{language} {launcher.languages[language]}: an action runs: {outcome.message or outcome.kind.value}"
    if Language.PYTHON in launcher.languages:
        yield await _standard_library(launcher, settings)


async def run_sample(launcher: Launcher, settings: Settings, language: Language) -> tuple[Outcome, list[str]]:
    """The language's own sample; what it logged."""
    path = Path(engines.__path__[0], language.value, "sample", f"action{spec_of(language).suffixes[0]}")
    return await _run(launcher, settings, path)


def answers_as_it_must(outcome: Outcome, logs: list[str]) -> bool:
    return _value(outcome) == _TEXT and logs == ["an action"]


async def _standard_library(launcher: Launcher, settings: Settings) -> tuple[str, str]:
    command = [program.sandbox_python().executable, "-I", "-S", "-c", _IMPORT_ALL + _PRINT]
    outside = subprocess.run(command, capture_output=True, text=True, check=False, env={"LANG": "C.UTF-8"})  # noqa: ASYNC221
    with tempfile.NamedTemporaryFile("w", suffix=".py") as source:
        source.write(_IMPORT_ALL + _ZONE + _PRINT)
        source.flush()
        outcome, logs = await _run(launcher, settings, Path(source.name))
    with suppress(ValueError):
        place, inside = json.loads(_value(outcome))
        absent = json.loads(outside.stdout)[1]
        if inside == absent:
            return "ok", f"the standard library imports in a sandbox, by {place}, but for: {', '.join(absent) or 'nothing'}"
        return "FAILED", f"modules that import outside a sandbox don't inside: {', '.join(sorted({*inside} - {*absent}))}"
    return "FAILED", "\n".join([f"the standard library in a sandbox: {outcome.message}", *logs, outside.stderr])


async def _run(launcher: Launcher, settings: Settings, source: Path) -> tuple[Outcome, list[str]]:
    logs = []

    async def keep(entry: LogEntry) -> None:
        logs.append(entry.content)

    request = Request(method="GET", path="/", params=(("text", _TEXT),), headers=(), body=b"")
    outcome = await localrunner.run_once(launcher, settings, runfile.code_of(source), request, keep)
    return outcome, logs


def _value(outcome: Outcome) -> str:
    return outcome.result.value.decode(errors="replace") if outcome.result is not None else ""
