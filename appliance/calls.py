"""One call of an action: limit → find → record started → run → logs → record the end → outcome.

THEORY OF OPERATION

A handler is cancelled when its client goes away; a run isn't. So a call is conducted by a task of the jobs nursery, which
comes to its end whoever still listens, and the handler only waits for the answer. A run that waits for its turn is recorded
as `queued`; one that can start at once is recorded as `started` with a single write. Its sandbox is claimed meanwhile, but
until that write is done nothing runs: a store that fails then means no run. A store that fails at the end means a late record,
never a late answer.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from appliance.builds import Builds, NotBuilt, closing_program
from appliance.coordination.interface import Limiter
from appliance.disk import DiskWatch, fit_for_disk
from appliance.ends import Ends
from appliance.entities import Code, CodeLog, CodeRun, Network, RunStatus, new_id, now
from appliance.errors import Conflict, StoreFailed
from appliance.metrics import Metrics
from appliance.receipts import (
    Origin,
    kept_bytes,
    kept_headers,
    kept_params,
    receipt,
    run_status,
    status_of,
)
from appliance.runlog import open_run_log
from appliance.runner.execution import Cause, OnLog, Ready
from appliance.runner.outcome import LEAST_CPU_PERCENT, Job, Limits, Outcome, OutcomeKind
from appliance.runner.pool import Runner, Ticket
from appliance.storage.interface import Storage
from appliance.supervisor import Jobs
from engines.table import spec_of

__all__ = ["NO_INPUT", "Answer", "CallOptions", "Calls", "Request", "status_of"]

log = structlog.get_logger()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What an action sees of its call: each query parameter's first value, every header in order; `path` without the query."""

    method: str = ""
    path: str = ""
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


NO_INPUT = Request()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The run as it is kept, and how it ended."""

    run: CodeRun
    outcome: Outcome


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a run whose code says nothing; header names in lower case whose values aren't kept; who we are."""

    memory_bytes: int
    cpu_percent: int
    tasks: int
    network: Network
    max_memory_bytes: int
    max_cpu_percent: int
    max_tasks: int
    redacted_headers: frozenset[str]
    instance: str

    def limits_of(self, code: Code) -> Limits:
        """A code's own, where it has one; the operator's maxima bind also those that were set before them. The installation's
        defaults are at least what the language can't do without: its author could not help it.
        """
        own, least = code.limits, spec_of(code.language)
        return Limits(
            timeout_s=code.timeout,
            memory_bytes=min(own.memory_bytes or max(self.memory_bytes, least.least_memory_bytes), self.max_memory_bytes),
            cpu_percent=min(own.cpu_percent or max(self.cpu_percent, LEAST_CPU_PERCENT), self.max_cpu_percent),
            tasks=min(own.tasks or max(self.tasks, least.least_tasks), self.max_tasks),
            network=own.network or self.network,
        )


class _Flight:
    """One call under way: what it is, and what its caller waits for."""

    def __init__(self, code: Code, request: Request, ticket: Ticket, run: CodeRun, origin: Origin, about: dict[str, Any]) -> None:
        self.about_body = about
        self.code = code
        self.request = request
        self.ticket = ticket
        self.run = run
        self.origin = origin
        self.has_ended = False
        self.answered = trio.Event()
        self.answer: Answer | None = None
        self.error: StoreFailed | None = None


class Calls:
    """Runs live in `jobs`, which outlive the handlers."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        limiter: Limiter,
        storage: Storage,
        ends: Ends,
        runner: Runner,
        builds: Builds,
        metrics: Metrics,
        disk: DiskWatch,
        options: CallOptions,
    ) -> None:
        self._jobs = jobs
        self._limiter = limiter
        self._codes = storage.codes
        self._runs = storage.runs
        self._logs = storage.logs
        self._ends = ends
        self._runner = runner
        self._builds = builds
        self._metrics = metrics
        self._disk = disk
        self._options = options
        self._flights: dict[str, _Flight] = {}
        self._landed = trio.Event()

    async def call(self, code_id: str, request: Request) -> Answer:
        """Raises `TooMany`, `NotFound`, `Busy` or `StoreFailed`, each of them without a run. A cancelled caller's run goes on."""
        await self._limiter.hit(code_id)
        code = await self._codes.get(code_id)
        flight = self._prepare(code, request)
        self._flights[flight.run.id] = flight
        self._jobs.start_soon(self._conduct, flight, name=f"run {flight.run.id}")
        await flight.answered.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.answer is not None
        return flight.answer

    async def cancel(self, run_id: str) -> None:
        """Asks for a run's end; raises `NotFound`, or `Conflict` when it has ended or isn't one of this instance's."""
        run = await self._runs.get(run_id)
        flight = self._flights.get(run.id)
        if flight is None or flight.has_ended:
            is_elsewhere = run.status in (RunStatus.QUEUED, RunStatus.STARTED) and flight is None
            raise Conflict("the run isn't one of this instance's" if is_elsewhere else "the run has ended")
        flight.ticket.end(Cause.CANCELLED)

    async def cancel_code(self, code_id: str) -> None:
        """Asks for the end of every run of a code."""
        for flight in self._flights.values():
            if flight.code.id == code_id:
                flight.ticket.end(Cause.CANCELLED)

    async def drain(self, seconds: float) -> None:
        """Returns when no run is under way: those that are still there after `seconds` are interrupted, and recorded so."""
        with trio.move_on_after(seconds):
            await self._empty()
        if self._flights:
            log.warning("runs interrupted", runs=len(self._flights), seconds=seconds)
        for flight in self._flights.values():
            flight.ticket.end(Cause.INTERRUPTED)
        await self._empty()

    async def _empty(self) -> None:
        while self._flights:
            await self._landed.wait()

    def _prepare(self, code: Code, request: Request) -> _Flight:
        limits = self._options.limits_of(code)
        origin = Origin(
            project_uuid=code.project_uuid,
            instance=self._options.instance,
            limits=limits,
            isolation=self._runner.isolation_of(limits),
        )
        body, about = self._kept("body", request.body)
        params = kept_params(dict(request.params))
        headers = kept_headers(request.headers, self._options.redacted_headers)
        at = now()
        is_built = self._builds.is_at_hand(code.language, code.source)
        # Last: from here on somebody must give the place back.
        ticket = self._runner.admit(code.project_uuid, is_prepared=is_built)
        run = CodeRun(
            id=new_id(),
            code_id=code.id,
            code_mongo_id=code.mongo_object_id,
            status=RunStatus.STARTED if ticket.granted else RunStatus.QUEUED,
            extra=origin.extra() | about,
            params=params,
            body=body,
            headers=headers,
            created_at=at,
            updated_at=at,
        )
        return _Flight(code, request, ticket, run, origin, about)

    async def _conduct(self, flight: _Flight) -> None:
        try:
            with flight.ticket:
                outcome, left = await self._run(flight)
            await self._land(flight, outcome, left)
        except StoreFailed as error:
            log.error("run not recorded, and not started", code_id=flight.code.id, reason=str(error))
            flight.error = error
        finally:
            del self._flights[flight.run.id]
            flight.answered.set()
            self._landed.set()
            self._landed = trio.Event()

    async def _run(self, flight: _Flight) -> tuple[Outcome, list[CodeLog]]:
        """The outcome, and the log entries that are not stored yet. Raises `StoreFailed` when there is no record of the run."""
        if flight.run.status is RunStatus.STARTED:
            return await self._run_recorded(flight, partial(self._runs.create, flight.run))
        await self._runs.create(flight.run)
        if not flight.ticket.is_prepared and (unbuilt := await self._build(flight)) is not None:
            return unbuilt
        if (unstarted := await flight.ticket.wait()) is not None:
            return unstarted, []
        try:
            return await self._run_recorded(flight, partial(self._runs.start, flight.run.id, now()))
        except StoreFailed as error:
            return Outcome(kind=OutcomeKind.COULD_NOT_START, message=f"the run could not start: {error}"), []

    async def _build(self, flight: _Flight) -> tuple[Outcome, list[CodeLog]] | None:
        """Before its turn, since a compiler's minute is to take nobody's place; None when the program is there."""
        program = await self._program(flight)
        if isinstance(program, Outcome):
            return program, []
        if isinstance(program, NotBuilt):
            async with open_run_log(self._logs, flight.run.id, flight.code.id) as run_log:
                for entry in program.entries:
                    await run_log.add(entry)
            return flight.ticket.end_unstarted(program.outcome), run_log.left
        with closing_program(program):
            return None

    async def _program(self, flight: _Flight) -> int | NotBuilt | Outcome | None:
        code = flight.code
        return await flight.ticket.prepare(partial(self._builds.program, code.language, code.source, code.project_uuid))

    async def _run_recorded(self, flight: _Flight, record: Callable[[], Awaitable[None]]) -> tuple[Outcome, list[CodeLog]]:
        job = job_of(flight.run.id, flight.code, flight.request, flight.origin.limits)
        found: Outcome | StoreFailed
        async with open_run_log(self._logs, flight.run.id, flight.code.id) as run_log, open_recording(record) as recorded:
            try:
                found = await self._execute(flight, job, run_log.add, recorded)
                await recorded()  # of one that came to nothing too: without a record there was no run
            except StoreFailed as error:  # raised in here, the nurseries would make a group of it
                found = error
        if isinstance(found, StoreFailed):
            raise found
        return found, run_log.left

    async def _execute(self, flight: _Flight, job: Job, on_log: OnLog, recorded: Ready) -> Outcome:
        """A language that is compiled is so before the run's clock starts."""
        program = await self._program(flight)
        if isinstance(program, Outcome):
            return program
        if isinstance(program, NotBuilt):
            await recorded()
            for entry in program.entries:
                await on_log(entry)
            return flight.ticket.end_unstarted(program.outcome)
        with closing_program(program):
            return await flight.ticket.run(msgspec.structs.replace(job, program=program), on_log, recorded)

    async def _land(self, flight: _Flight, outcome: Outcome, left: list[CodeLog]) -> None:
        flight.has_ended = True
        result, about = self._kept("result", outcome.result.value if outcome.result else b"")
        extra = receipt(flight.origin, outcome) | flight.about_body | about
        status, at = run_status(outcome), now()
        await self._ends.finish(flight.run.id, status, result, extra, at, left)
        run = msgspec.structs.replace(flight.run, status=status, result=result, extra=extra, updated_at=at)
        flight.answer = Answer(run=run, outcome=outcome)
        flight.answered.set()
        await trio.lowlevel.cancel_shielded_checkpoint()  # the answer goes out first
        self._count(flight, outcome)

    def _kept(self, what: str, data: bytes) -> tuple[str, dict[str, Any]]:
        """What the store holds of a body or result, and what `extra` says of it."""
        text, encoding = kept_bytes(data)
        kept = fit_for_disk(text, low=self._disk.is_low(), is_base64=encoding is not None)
        about: dict[str, Any] = {f"{what}_encoding": encoding} if encoding else {}
        return kept.text, about | ({f"{what}_truncated": True} if kept.cut else {})

    def _count(self, flight: _Flight, outcome: Outcome) -> None:
        self._metrics.run_ended(flight.code, outcome)
        self._metrics.queue_wait((outcome.usage.queue_ms or 0.0) / 1000)
        self._metrics.task_duration((outcome.usage.wall_ms or 0.0) / 1000)
        log.info(
            "run ended",
            run_id=flight.run.id,
            code_id=flight.code.id,
            outcome=outcome.kind.value,
            status_code=status_of(outcome),
            wall_ms=outcome.usage.wall_ms,
        )


def job_of(run_id: str, code: Code, request: Request, limits: Limits) -> Job:
    return Job(
        run_id=run_id,
        language=code.language,
        source=code.source,
        limits=limits,
        method=request.method,
        path=request.path,
        params=request.params,
        headers=request.headers,
        body=request.body,
    )


@asynccontextmanager
async def open_recording(record: Callable[[], Awaitable[None]]) -> AsyncIterator[Ready]:
    """Stores while the block does other things; what it yields waits for that, and raises `StoreFailed` where it failed."""
    done = trio.Event()
    failures: list[StoreFailed] = []

    async def store() -> None:
        try:
            await record()
        except StoreFailed as error:
            failures.append(error)
        done.set()

    async def recorded() -> None:
        if not done.is_set():
            await done.wait()
        if failures:
            raise failures[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store, name="record of a start")
        yield recorded
