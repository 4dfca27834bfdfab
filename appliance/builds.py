"""Compiled sources: built once each, in a sandbox of their own, kept by the hash of source, toolchain and engine.

THEORY OF OPERATION

A build is a job like any other, for a sandbox whose purpose it is; its output is a memory file that we made, which is sealed when
the sandbox has ended, and copied into the state directory. Whoever wants the same program meanwhile waits for the same build. A
build belongs to the jobs nursery, so a caller that goes away doesn't end it.

The toolchain's own cache (`TOOLCHAIN`) lies in the state directory too, and is mounted read-only into the sandboxes of builds.
`warm` fills it once a toolchain, with builds whose source is ours; no tenant's build writes there. The first of these makes what
every program needs; tenants' builds wait for it rather than compile the same beside it, and no longer: the rest is made with
low priority, and a build compiles for itself what isn't there yet.
"""

import fcntl
import hashlib
import os
import shutil
import tarfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio

from appliance.entities import Language, Network, new_id
from appliance.runner.execution import Bounds, Execution, OnLog
from appliance.runner.launcher import Launcher
from appliance.runner.outcome import Job, Limits, LogEntry, Outcome, OutcomeKind, Purpose
from appliance.runner.turns import Turns
from engines.spec import LanguageSpec
from engines.table import spec_of

log = structlog.get_logger()

FOLDER = "builds"
TOOLCHAIN = "toolchain"
_KEY_FILE = "key"
_FAILURE = ".failed"  # beside the programs: what is known of a source that doesn't compile
_MOST_AT_ONCE = 2
_MOST_OPEN = 32  # programs that are kept in memory, of some 2 to 8 MB each
_MOST_FAILURES = 1000  # in memory, and as many on disk
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CPU_PERCENT = 200
_LATER_CPU_PERCENT = 100  # of what fills the cache while tenants' builds and runs go on
_TASKS = 256


class BuildStatus(StrEnum):
    PENDING = "pending"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class BuildState(msgspec.Struct, frozen=True, kw_only=True):
    """`message` says why it failed."""

    status: BuildStatus
    message: str | None = None


class NotBuilt(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ends whose source could not be built, what was logged of it, and whether it would be so again."""

    outcome: Outcome
    entries: tuple[LogEntry, ...]
    is_final: bool


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`timeout_s` and `memory_bytes` of one build; `cache_bytes` is what the programs may take in `folder`."""

    folder: Path
    timeout_s: int
    memory_bytes: int
    cache_bytes: int


class Starter(Protocol):
    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object, name: str) -> None: ...


class _Flight:
    def __init__(self) -> None:
        self.landed = trio.Event()
        self.failure: NotBuilt | None = None
        self.has_begun = False


class Builds:
    """Of all languages that are compiled."""

    def __init__(self, launcher: Launcher, jobs: Starter, options: BuildOptions) -> None:
        self._launcher = launcher
        self._jobs = jobs
        self._options = options
        self._turns: Turns[trio.Event] = Turns(_MOST_AT_ONCE)
        self._flights: dict[str, _Flight] = {}
        self._failures: OrderedDict[str, NotBuilt] = OrderedDict()
        self._open: OrderedDict[str, int] = OrderedDict()
        self._engines: dict[Language, str] = {}
        self._cores: dict[Language, trio.Event] = {}  # set when what every program needs is in the toolchain's cache
        options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def state(self, language: Language, source: str) -> BuildState | None:
        """None for a language that isn't compiled."""
        if not self._is_built(language):
            return None
        if (reason := self._launcher.lacking.get(language)) is not None:
            return BuildState(status=BuildStatus.FAILED, message=reason)
        key = self._key(language, source)
        if (flight := self._flights.get(key)) is not None:
            return BuildState(status=BuildStatus.BUILDING if flight.has_begun else BuildStatus.PENDING)
        if (failure := self._failure(key)) is not None:
            return BuildState(status=BuildStatus.FAILED, message=failure.outcome.message)
        is_there = key in self._open or self._path(key).exists()
        return BuildState(status=BuildStatus.READY if is_there else BuildStatus.PENDING)

    def begin(self, language: Language, source: str, project_uuid: str) -> None:
        """Builds it in the background, unless it is there."""
        if self._is_built(language):
            key = self._key(language, source)
            if key not in self._flights and self._failure(key) is None and not self._path(key).exists():
                self._take_off(key, language, source, project_uuid)

    def is_at_hand(self, language: Language, source: str) -> bool:
        """Whether `program` needn't wait for a build: it is there, or it is known that it can't be made."""
        if not self._is_built(language):
            return True
        key = self._key(language, source)
        if (failure := self._failure(key)) is not None and failure.is_final:
            return True
        return key not in self._flights and (key in self._open or self._path(key).exists())

    async def program(self, language: Language, source: str, project_uuid: str) -> int | NotBuilt | None:
        """The program's descriptor, which is the caller's to close (`closing_program`); None for a language that has none. It is
        built in the project's turn.

        A caller that is cancelled only stops waiting: the build goes on.
        """
        if not self._is_built(language):
            return None
        key = self._key(language, source)
        if (failure := self._failure(key)) is not None and failure.is_final:
            return failure
        if key not in self._flights and (program := await self._kept(key)) is not None:
            return program
        flight = self._flights.get(key) or self._take_off(key, language, source, project_uuid)
        await flight.landed.wait()
        if flight.failure is not None:
            return flight.failure
        return os.dup(self._open[key])

    def _is_built(self, language: Language) -> bool:
        return spec_of(language).build is not None

    def _key(self, language: Language, source: str) -> str:
        if language not in self._engines:
            self._engines[language] = hash_of_engine(language, self._launcher.languages.get(language, ""))
        return hashlib.sha256(f"{self._engines[language]}\0{source}".encode("utf-8", "surrogatepass")).hexdigest()

    def _path(self, key: str) -> Path:
        return self._options.folder / key

    def _failure(self, key: str) -> NotBuilt | None:
        """How its build ended at last, in this server or in one before it."""
        is_unknown = key not in self._failures and key not in self._open  # a program in memory is one that compiled
        if is_unknown and (failure := _load_failure(self._failure_path(key))) is not None:
            self._remember(key, failure)
        return self._failures.get(key)

    def _failure_path(self, key: str) -> Path:
        return self._path(key).with_suffix(_FAILURE)

    def _remember(self, key: str, failure: NotBuilt) -> None:
        self._failures[key] = failure
        if len(self._failures) > _MOST_FAILURES:
            self._failures.popitem(last=False)

    def _take_off(self, key: str, language: Language, source: str, project_uuid: str) -> _Flight:
        self._failures.pop(key, None)
        flight = self._flights[key] = _Flight()
        self._jobs.start_soon(self._build, flight, key, language, source, project_uuid, name=f"build {key[:12]}")
        return flight

    async def _build(self, flight: _Flight, key: str, language: Language, source: str, project_uuid: str) -> None:
        try:
            if (core := self._cores.get(language)) is not None:
                await core.wait()
            async with self._turn(project_uuid):
                flight.has_begun = True
                flight.failure = await self._execute(key, language, source)
            if flight.failure is not None:
                self._remember(key, flight.failure)
        finally:
            del self._flights[key]
            flight.landed.set()

    @asynccontextmanager
    async def _turn(self, project_uuid: str) -> AsyncIterator[None]:
        if not self._turns.take(project_uuid):
            turn = trio.Event()
            self._turns.line_up(project_uuid, turn)
            try:
                await turn.wait()
            except trio.Cancelled:
                if turn.is_set():
                    self._end_turn(project_uuid)
                else:
                    self._turns.leave_line(project_uuid, turn)
                raise
        try:
            yield
        finally:
            self._end_turn(project_uuid)

    def _end_turn(self, project_uuid: str) -> None:
        if (following := self._turns.leave(project_uuid)) is not None:
            following.set()

    async def _execute(self, key: str, language: Language, source: str) -> NotBuilt | None:
        entries: list[LogEntry] = []

        async def keep(entry: LogEntry) -> None:
            entries.append(entry)

        with _memory_file(language) as program:
            outcome = await self._run(language, source, program, keep)
            if outcome.kind is not OutcomeKind.COMPLETED:
                failed = self._failed(outcome)
                log.info("build failed", build=key[:12], outcome=outcome.kind.value, reason=failed.message)
                failure = NotBuilt(outcome=failed, entries=tuple(entries), is_final=outcome.kind is OutcomeKind.ERROR)
                if failure.is_final:
                    with suppress(OSError):  # a full disk: it is only not known after a restart
                        await trio.to_thread.run_sync(_store_failure, failure, self._failure_path(key))
                    await trio.to_thread.run_sync(_evict, self._options.folder, self._options.cache_bytes, key)
                return failure
            fcntl.fcntl(program, fcntl.F_ADD_SEALS, _SEALS)
            await trio.to_thread.run_sync(_store, program, self._path(key))
            self._keep_open(key, os.dup(program))
        await trio.to_thread.run_sync(_evict, self._options.folder, self._options.cache_bytes, key)
        log.info("build ready", build=key[:12], wall_ms=outcome.usage.wall_ms)
        return None

    async def _run(self, language: Language, source: str, output: int, on_log: OnLog, cpu_percent: int = _CPU_PERCENT) -> Outcome:
        options = self._options
        limits = Limits(
            timeout_s=options.timeout_s,
            memory_bytes=options.memory_bytes,
            cpu_percent=cpu_percent,
            tasks=_TASKS,
            network=Network.NONE,
        )
        job = Job(run_id=new_id(), language=language, source=source, limits=limits, purpose=Purpose.BUILD, program=output)
        bounds = Bounds(max_log_bytes=1 << 20, max_result_bytes=1 << 20)
        return await Execution(self._launcher, job, bounds, on_log).run()

    def _failed(self, outcome: Outcome) -> Outcome:
        """To the run it is an error of its source, unless it is ours."""
        is_ours = outcome.kind in (OutcomeKind.COULD_NOT_START, OutcomeKind.INTERRUPTED)
        return Outcome(kind=outcome.kind if is_ours else OutcomeKind.ERROR, message=self._explain(outcome))

    def _explain(self, outcome: Outcome) -> str:
        """A build's limits are other settings than a run's."""
        if outcome.kind is OutcomeKind.TIMEOUT:
            return f"the source could not be compiled within {self._options.timeout_s} s (BUILD_TIMEOUT)"
        if outcome.kind is OutcomeKind.OUT_OF_MEMORY:
            limit = self._options.memory_bytes >> 20
            return f"the source could not be compiled: out of memory: the limit is {limit} MiB (BUILD_MEMORY)"
        return outcome.message or "the source could not be compiled"

    async def _kept(self, key: str) -> int | None:
        """From memory, or from disk, which it is then read from once; marks it as used, there too."""
        if key not in self._open:
            try:
                program = await trio.to_thread.run_sync(_load, self._path(key))
            except FileNotFoundError:
                return None
            self._keep_open(key, program)
        if next(reversed(self._open)) != key:
            self._open.move_to_end(key)
            with suppress(OSError):  # it was evicted there
                os.utime(self._path(key))
        return os.dup(self._open[key])

    def _keep_open(self, key: str, program: int) -> None:
        if (old := self._open.pop(key, None)) is not None:
            os.close(old)
        self._open[key] = program
        while len(self._open) > _MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])

    async def warm(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fills the toolchain's cache, once for each toolchain; a failure only makes builds slow. Before that, what the programs
        take is brought down to a limit that may have been lowered since they were made."""
        task_status.started()
        await trio.to_thread.run_sync(_evict, self._options.folder, self._options.cache_bytes)
        for language in self._launcher.languages:
            if (spec := spec_of(language)).build is not None and spec.warming:
                await self._warm(language, spec)

    async def _warm(self, language: Language, spec: LanguageSpec) -> None:
        folder = self._options.folder / TOOLCHAIN
        key = hash_of_engine(language, self._launcher.languages[language])
        if (folder / _KEY_FILE).exists() and (folder / _KEY_FILE).read_text() == key:
            return
        core = self._cores[language] = trio.Event()
        try:
            is_filled = await self._fill(folder, language, spec.warming[0], _CPU_PERCENT)
        finally:
            core.set()
        for source in spec.warming[1:]:
            is_filled = is_filled and await self._fill(folder, language, source, _LATER_CPU_PERCENT)
        if is_filled:
            (folder / _KEY_FILE).write_text(key)
            log.info("toolchain cache filled", engine=language.value)

    async def _fill(self, folder: Path, language: Language, source: str, cpu_percent: int) -> bool:
        with _memory_file(language) as archive:
            outcome = await self._run(language, source, archive, _ignore, cpu_percent)
            if outcome.kind is not OutcomeKind.COMPLETED:
                log.warning("toolchain cache not filled", engine=language.value, reason=self._explain(outcome))
                return False
            await trio.to_thread.run_sync(_unpack, archive, folder)
        log.info("toolchain cache grows", engine=language.value, wall_ms=outcome.usage.wall_ms)
        return True


async def _ignore(entry: LogEntry) -> None:
    """What the compiler says of its own library is nobody's concern."""


def make_folders(state_dir: Path) -> Path:
    """The folder that is mounted into the sandboxes of builds: readable for their uids, below one that isn't."""
    folder = state_dir / FOLDER / TOOLCHAIN
    (state_dir / FOLDER).mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        owner = state_dir.stat()
        for path in (state_dir / FOLDER, folder):
            os.chown(path, owner.st_uid, owner.st_gid)
    folder.chmod(0o755)
    return folder


def existing_toolchain_cache(state_dir: Path) -> Path | None:
    """What a server that was started here has filled."""
    folder = state_dir / FOLDER / TOOLCHAIN
    try:
        return folder if folder.is_dir() else None
    except PermissionError:
        return None


def hash_of_engine(language: Language, version: str) -> str:
    import engines

    digest = hashlib.sha256(version.encode())
    folder = Path(engines.__file__ or "").parent / language.value
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".pyc", "") and path.is_file():
            digest.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def closing_program(program: int | None) -> Iterator[None]:
    try:
        yield
    finally:
        if program is not None:
            os.close(program)


@contextmanager
def _memory_file(language: Language) -> Iterator[int]:
    fd = os.memfd_create(language.value, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        yield fd
    finally:
        os.close(fd)


def _store(program: int, path: Path) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(".new")
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _copy(program, fd)
    finally:
        os.close(fd)
    unfinished.rename(path)


def _load(path: Path) -> int:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    program = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _copy(source, program)
        fcntl.fcntl(program, fcntl.F_ADD_SEALS, _SEALS)
        os.utime(path)
    finally:
        os.close(source)
    return program


def _copy(source: int, target: int) -> None:
    offset = 0
    while count := os.sendfile(target, source, offset, 1 << 24):
        offset += count


def _store_failure(failure: NotBuilt, path: Path) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(".new")
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(msgspec.json.encode(failure))
    unfinished.rename(path)


def _load_failure(path: Path) -> NotBuilt | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=NotBuilt)
    except (OSError, msgspec.DecodeError):  # another version of us may have written it: it is built again then
        return None


def _evict(folder: Path, cache_bytes: int, newest: str = "") -> None:
    """The least recently used go until the rest fits; the one that was just made stays."""
    found = sorted(_files(folder), key=lambda file: file[1].st_mtime_ns, reverse=True)
    left = cache_bytes
    failures_left = _MOST_FAILURES
    for path, is_now in found:
        left -= is_now.st_size
        failures_left -= path.suffix == _FAILURE
        is_too_much = left < 0 or (path.suffix == _FAILURE and failures_left < 0)
        if is_too_much and path.stem != newest:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What goes meanwhile, an unfinished file that gets its name, is passed over."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.stat()


def _unpack(archive: int, folder: Path) -> None:
    """Plain files by their two-letter folders, and nothing else that an archive may hold."""
    os.lseek(archive, 0, os.SEEK_SET)  # its writer had the same position
    with os.fdopen(os.dup(archive), "rb") as file, tarfile.open(fileobj=file) as members:
        for member in members:
            place, _, name = member.name.partition("/")
            content = members.extractfile(member) if member.isreg() else None
            if content is None or not place.isalnum() or not name.replace("-", "").isalnum():
                continue
            (folder / place).mkdir(exist_ok=True)
            (folder / place).chmod(0o755)
            with open(folder / place / name, "wb") as target:
                shutil.copyfileobj(content, target)
            (folder / place / name).chmod(0o644)
