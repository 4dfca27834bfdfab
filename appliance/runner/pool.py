"""How many runs there are at once, who waits, and who is next."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TypeVar

import msgspec
import trio

from appliance.entities import Language, Network
from appliance.errors import Busy
from appliance.runner import wire
from appliance.runner.execution import Bounds, Cause, Execution, OnLog, Ready, at_once
from appliance.runner.launcher import Launcher
from appliance.runner.outcome import NETWORK_FILTER, Isolation, Job, Limits, Outcome, OutcomeKind, Usage
from appliance.runner.turns import Turns

_RETRY_SECONDS = 1.0
T = TypeVar("T")


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`workers` runs at once; `queue` waiting in all, `project_queue` of one project, for at most `queue_timeout` seconds."""

    workers: int
    queue: int
    project_queue: int
    queue_timeout: float


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    workers_total: int
    workers_busy: int
    queue_size: int
    queue_capacity: int
    submitted: int
    completed: int
    failed: int
    rejected: int
    timeout: int
    orphans_swept: Mapping[wire.OrphanKind, int]


class _Counters:
    def __init__(self) -> None:
        self.submitted = self.completed = self.failed = self.rejected = self.timeout = 0

    def count_end(self, outcome: Outcome) -> None:
        if outcome.kind is OutcomeKind.COMPLETED:
            self.completed += 1
        else:
            self.failed += 1
            self.timeout += outcome.kind is OutcomeKind.TIMEOUT


class Runner:
    """Admits runs and executes them. The queue is fair: projects take turns, whatever number of calls each has waiting."""

    def __init__(self, launcher: Launcher, options: PoolOptions, bounds: Bounds) -> None:
        self._launcher = launcher
        self._options = options
        self._bounds = bounds
        self._turns: Turns[Ticket] = Turns(options.workers)
        self._preparing: Counter[str] = Counter()  # by project: they wait for their builds, and line up then
        self._counters = _Counters()

    @property
    def isolation(self) -> Isolation:
        return self._launcher.isolation

    def isolation_of(self, limits: Limits) -> Isolation:
        """Of one run: what has no network needs no filter for it."""
        if limits.network is Network.INTERNET:
            return self.isolation
        missing = tuple(name for name in self.isolation.missing if name != NETWORK_FILTER)
        return Isolation(level="reduced" if missing else "full", missing=missing, absent=self.isolation.absent)

    @property
    def floor(self) -> str:
        """What keeps runs from starting on this host; empty when nothing does."""
        return self._launcher.floor

    @property
    def languages(self) -> Mapping[Language, str]:
        """Those that can be run, with their versions."""
        return self._launcher.languages

    @property
    def lacking(self) -> Mapping[Language, str]:
        """Why the others can't be run."""
        return self._launcher.lacking

    @property
    def orphans_swept(self) -> Mapping[wire.OrphanKind, int]:
        return self._launcher.orphans_swept

    def admit(self, project_uuid: str, *, is_prepared: bool = True) -> "Ticket":
        """A place among the running, or in the queue. Raises `Busy`, and keeps nothing, when there is neither. One that isn't
        prepared takes no place of a running one until it is."""
        ticket = Ticket(self, project_uuid, is_prepared)
        if is_prepared and self._turns.take(project_uuid):
            ticket.grant()
        elif self._queue_size() >= self._options.queue:
            self._refuse(f"the queue is full: {self._options.queue} runs are waiting")
        elif self._turns.waiting_of(project_uuid) + self._preparing[project_uuid] >= self._options.project_queue:
            self._refuse(f"the queue of this project is full: {self._options.project_queue} of its runs are waiting")
        elif is_prepared:
            self._turns.line_up(project_uuid, ticket)
        else:
            self._preparing[project_uuid] += 1
        self._counters.submitted += 1
        return ticket

    def _line_up(self, ticket: "Ticket") -> None:
        """It is prepared now."""
        self._end_preparing(ticket)
        if self._turns.take(ticket.project_uuid):
            ticket.grant()
        else:
            self._turns.line_up(ticket.project_uuid, ticket)

    def _end_preparing(self, ticket: "Ticket") -> None:
        self._preparing[ticket.project_uuid] -= 1
        if not self._preparing[ticket.project_uuid]:
            del self._preparing[ticket.project_uuid]

    def stats(self) -> PoolStats:
        counters = self._counters
        return PoolStats(
            workers_total=self._options.workers,
            workers_busy=self._turns.busy,
            queue_size=self._queue_size(),
            queue_capacity=self._options.queue,
            submitted=counters.submitted,
            completed=counters.completed,
            failed=counters.failed,
            rejected=counters.rejected,
            timeout=counters.timeout,
            orphans_swept=self.orphans_swept,
        )

    def _queue_size(self) -> int:
        return self._turns.waiting() + self._preparing.total()

    def _refuse(self, message: str) -> None:
        self._counters.rejected += 1
        raise Busy(message, _RETRY_SECONDS)

    def _leave(self, ticket: "Ticket") -> None:
        if not ticket.is_prepared:
            self._end_preparing(ticket)
        elif not ticket.granted:
            self._turns.leave_line(ticket.project_uuid, ticket)
        elif (following := self._turns.leave(ticket.project_uuid)) is not None:
            following.grant()


class Ticket:
    """One run's place. Leaving the block gives it back.

    `prepare` where it isn't prepared, then `wait`, then perhaps `prepare`, then `run`; `end` at any time.
    """

    def __init__(self, runner: Runner, project_uuid: str, is_prepared: bool) -> None:
        self.project_uuid = project_uuid
        self.is_prepared = is_prepared
        self.granted = False
        self._runner = runner
        self._turn = trio.Event()
        self._cause: Cause | None = None
        self._preparing: trio.CancelScope | None = None
        self._execution: Execution | None = None
        self._since = trio.current_time()
        self._queue_ms = 0.0

    def grant(self) -> None:
        self.granted = True
        self._queue_ms = (trio.current_time() - self._since) * 1000
        self._turn.set()

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner._leave(self)

    def end(self, cause: Cause) -> None:
        """Ends the run, whether it waits, is prepared or executes; `wait`, `prepare` or `run` then says how it ended."""
        self._cause = self._cause or cause
        self._turn.set()
        if self._preparing is not None:
            self._preparing.cancel()
        if self._execution is not None:
            self._execution.end(cause)

    async def wait(self) -> Outcome | None:
        """Until it is this run's turn; an outcome when that never comes: ended, or waited too long."""
        with trio.move_on_after(self._runner._options.queue_timeout):
            await self._turn.wait()
        if self._cause is None and self.granted:
            return None
        waited = Usage(queue_ms=round((trio.current_time() - self._since) * 1000, 3))
        if self._cause is not None:
            return self._ended(self._cause, waited)
        message = f"the run could not start: it waited for {self._runner._options.queue_timeout:g} s (QUEUE_TIMEOUT)"
        return self._count(Outcome(kind=OutcomeKind.COULD_NOT_START, message=message, usage=waited))

    async def prepare(self, work: Callable[[], Awaitable[T]]) -> T | Outcome:
        """What `work` returns, which the run can't do without: its build. It is left at once when the run is to end, and may not
        hold anything then. The time until then is none of the queue's."""
        with trio.CancelScope() as self._preparing:
            if self._cause is not None:
                self._preparing.cancel()
            made = await work()
            if not self.is_prepared:
                self.is_prepared = True
                self._since = trio.current_time()
                self._runner._line_up(self)
            return made
        assert self._cause is not None
        return self._ended(self._cause, Usage(queue_ms=round(self._queue_ms, 3)))

    async def run(self, job: Job, on_log: OnLog, ready: Ready = at_once) -> Outcome:
        """`ready` is waited for between the claim and the job; raises what that raises."""
        self._execution = Execution(self._runner._launcher, job, self._runner._bounds, on_log, ready)
        if self._cause is not None:
            self._execution.end(self._cause)
        outcome = await self._execution.run()
        usage = msgspec.structs.replace(outcome.usage, queue_ms=round(self._queue_ms, 3))
        return self._count(msgspec.structs.replace(outcome, usage=usage))

    def end_unstarted(self, outcome: Outcome) -> Outcome:
        """The end of a run that came to nothing before it was executed: its source doesn't compile."""
        return self._count(msgspec.structs.replace(outcome, usage=Usage(queue_ms=round(self._queue_ms, 3))))

    def _ended(self, cause: Cause, usage: Usage) -> Outcome:
        return self._count(Outcome(kind=cause.value, message=_ENDED_WAITING[cause], usage=usage))

    def _count(self, outcome: Outcome) -> Outcome:
        self._runner._counters.count_end(outcome)
        return outcome


_ENDED_WAITING = {
    Cause.CANCELLED: "the run was cancelled",
    Cause.INTERRUPTED: "the run was interrupted: the appliance is stopping",
}
