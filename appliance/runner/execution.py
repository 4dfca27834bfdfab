"""One job in one sandbox, from the claim to the outcome.

THEORY OF OPERATION

One task watches a sandbox for its end, one reads the engine's frames and what was written to standard output and standard
error, and where the job is a large one a third writes it. When the launcher says that the run has ended, all that it wrote is
in the pipes: what they hold is read, and nothing is waited for, since others may still hold the other ends. What the
frames say is a claim of the tenant's; how the run ended is what the launcher says, who has it from pid 1 and the kernel. Whoever
wants the run to end before that (deadline, cancellation, a frame that is none) notes the cause and has the sandbox killed.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

import msgspec
import structlog
import trio

from appliance.entities import LogType, now
from appliance.runner import wire
from appliance.runner.launcher import ClaimedSandbox, ClaimRefused, Launcher, LauncherGone
from appliance.runner.outcome import Job, LogEntry, Outcome, OutcomeKind, Result, Usage
from appliance.runner.output import LogBudget, OutputLines, cut
from appliance.runner.pipes import Pipes
from engines.python import checks
from engines.table import spec_of

log = structlog.get_logger()

OnLog = Callable[[LogEntry], Awaitable[None]]
"""Takes one entry; may wait, which holds the action back. Cancelled while it waits, it has taken the entry."""

at_once = trio.lowlevel.checkpoint
Ready = Callable[[], Awaitable[None]]
"""Waits until the job may be sent; what it raises ends the run before it has begun."""

TIMEOUT_MESSAGE = "timeout: request context timeout limit exceeded"
_LAST_WORDS_BYTES = 16 << 10  # of standard error: a runtime that aborts says why, and then where it was
_CLAIM_SECONDS = 10  # making a sandbox takes milliseconds; a launcher that is stuck must not hold a caller for ever
_CONFIRM_SECONDS = 5  # a kill takes milliseconds; longer than that nobody waits for a launcher to say that it is done
_STALE_SECONDS = 1  # how long a claimed sandbox waits for `ready`: its backstop counts from the claim
_BACKSTOP_SECONDS = 5  # how much later than the server's deadline the guard's own timer ends everything
_LAST_WORDS_SECONDS = 5  # for what the pipes still hold at the end: a megabyte or three, and a store that may be slow or gone
_KINDS_OF_ENGINE = {OutcomeKind.ERROR, OutcomeKind.OUT_OF_MEMORY, OutcomeKind.TOO_MANY_PROCESSES, OutcomeKind.OUTPUT_LIMIT}


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's bounds on what one run may say, in bytes."""

    max_log_bytes: int
    max_result_bytes: int


class Cause(Enum):
    """Why we ended a run ourselves."""

    TIMEOUT = OutcomeKind.TIMEOUT
    CANCELLED = OutcomeKind.CANCELLED
    INTERRUPTED = OutcomeKind.INTERRUPTED
    OUTPUT_LIMIT = OutcomeKind.OUTPUT_LIMIT
    MALFORMED = OutcomeKind.ERROR


class Execution:
    """`run` once; `end` from anywhere, at any time, as often as one likes: the first cause counts."""

    def __init__(self, launcher: Launcher, job: Job, bounds: Bounds, on_log: OnLog, ready: Ready = at_once) -> None:
        self._launcher = launcher
        self._job = job
        self._bounds = bounds
        self._on_log = on_log
        self._ready = ready
        self._budget = LogBudget(bounds.max_log_bytes)
        self._cause: Cause | None = None
        self._watching = trio.CancelScope()
        self._result: Result | None = None
        self._failed: wire.Failed | None = None
        self._printed = _Printed(bounds.max_result_bytes)
        self._last_words = b""
        self._done = False
        self._broke_off = False

    def end(self, cause: Cause) -> None:
        if self._cause is None:
            self._cause = cause
            self._watching.cancel()

    async def run(self) -> Outcome:
        """Never raises for what the action did, only what `ready` raises. Cancelling it kills the run at once, and leaves no
        outcome."""
        end: wire.Ended | None = None
        started = trio.current_time()
        try:
            sandbox = await self._claim_until_ready()
            started = trio.current_time()
            with suppress(LauncherGone):  # `end` stays None
                end = await self._conduct(sandbox, started + self._job.limits.timeout_s)
        except ClaimRefused as refusal:
            return Outcome(kind=OutcomeKind.COULD_NOT_START, message=f"the run could not start: {refusal}")
        if self._broke_off and not self._done and end is not None and end.wait_status == 0:
            self.end(Cause.MALFORMED)
        if (entry := self._budget.last_entry()) is not None:
            with trio.move_on_after(_LAST_WORDS_SECONDS):
                await self._on_log(entry)
        wall_ms = (trio.current_time() - started) * 1000
        return conclude(self._cause, end, self._failed, self._completed_result(), wall_ms, self._bounds, self._memory())

    def _memory(self) -> "Memory":
        aborted = spec_of(self._job.language).died_of_memory(self._last_words)
        return Memory(self._job.limits.memory_bytes, aborted)

    async def _claim(self) -> ClaimedSandbox:
        backstop_ms = (self._job.limits.timeout_s + _BACKSTOP_SECONDS) * 1000
        with trio.move_on_after(_CLAIM_SECONDS):
            try:
                return await self._launcher.claim(self._job, backstop_ms)
            except LauncherGone as gone:  # nothing of the action has run
                raise ClaimRefused("its launcher went away") from gone
        raise ClaimRefused(f"no sandbox was ready within {_CLAIM_SECONDS} s")

    async def _claim_until_ready(self) -> ClaimedSandbox:
        sandbox = await self._claim()
        stale_at = trio.current_time() + _STALE_SECONDS
        try:
            await self._ready()
        except BaseException:
            sandbox.close()
            raise
        if trio.current_time() < stale_at:
            return sandbox
        sandbox.close()
        return await self._claim()

    async def _conduct(self, sandbox: ClaimedSandbox, deadline: float) -> wire.Ended | None:
        try:
            open_pipes = Pipes((sandbox.answers, sandbox.stdout, sandbox.stderr))
        except OSError as error:
            sandbox.close()
            raise ClaimRefused(f"the server could not open its output: {error.strerror}") from None
        with open_pipes as pipes:
            async with trio.open_nursery() as nursery:
                if rest := self._begin_job(sandbox.job):
                    nursery.start_soon(self._write_job, sandbox.job, rest, name="job")
                nursery.start_soon(self._read, pipes, sandbox, name="what a run says")
                end = await self._watch(sandbox, deadline)
                pipes.finish()
                nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_SECONDS
        return end

    async def _watch(self, sandbox: ClaimedSandbox, deadline: float) -> wire.Ended | None:
        """None too when the launcher doesn't confirm a kill: then it is the guard's own timer that ends the run."""
        try:
            with self._watching:
                self._watching.deadline = deadline
                return await sandbox.ending.wait()
            self.end(Cause.TIMEOUT)  # unless another cause has ended the watch
            with trio.move_on_after(_CONFIRM_SECONDS):  # the request may be what isn't taken
                await self._launcher.kill(sandbox)
                return await sandbox.ending.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CONFIRM_SECONDS):
                await self._launcher.kill(sandbox)
            raise
        log.error("kill not confirmed", run_id=self._job.run_id, sandbox=sandbox.number, seconds=_CONFIRM_SECONDS)
        return None

    def _begin_job(self, fd: int) -> memoryview:
        """Writes what the pipe takes at once, which is all of an ordinary job, and returns the rest; without one, closes it."""
        frame = memoryview(b"")
        try:
            if self._cause is None:  # ended before it began: a worker that gets no job ends by itself
                os.set_blocking(fd, False)
                frame = memoryview(wire.job_frame(self._job, self._bounds.max_log_bytes, self._bounds.max_result_bytes))
                with suppress(BlockingIOError, BrokenPipeError):
                    while frame:
                        frame = frame[os.write(fd, frame) :]
        finally:
            if not frame:
                os.close(fd)
        return frame

    async def _write_job(self, fd: int, frame: memoryview) -> None:
        async with trio.lowlevel.FdStream(fd) as stream:
            with suppress(trio.BrokenResourceError):  # it ended before it had read its job: the launcher says how
                await stream.send_all(frame)

    async def _read(self, pipes: Pipes, sandbox: ClaimedSandbox) -> None:
        frames = wire.FrameReader(self._bounds.max_result_bytes)
        outputs = {sandbox.stdout: (LogType.DEBUG, OutputLines()), sandbox.stderr: (LogType.ERROR, OutputLines())}
        while found := await pipes.read():
            for fd, data in found:
                if fd == sandbox.answers:
                    await self._take_frames(frames, data)
                else:
                    await self._take_output(*outputs[fd], data)
        self._broke_off = frames.is_in_the_middle

    async def _take_frames(self, reader: wire.FrameReader, data: bytes) -> None:
        if self._cause is Cause.MALFORMED:
            return  # until the kill: a full pipe would only hold up the tenant, but it isn't kept
        try:
            for head, blob in reader.feed(data):
                await self._take_frame(head, blob)
        except ValueError:  # a frame that is none (wire.Malformed), or an answer that the engine would have refused
            self.end(Cause.MALFORMED)

    async def _take_frame(self, head: wire.FrameHead, blob: bytes) -> None:
        if self._done or self._failed is not None:
            return  # the engine has said its last word; what a tenant adds to it doesn't count
        self._printed.learn(is_plain=isinstance(head, wire.Plain))
        if self._printed.is_too_much:
            self.end(Cause.OUTPUT_LIMIT)
        match head:
            case wire.Log(level):
                await self._log(level, cut(blob.decode(errors="replace")))
            case wire.ResultHead():
                self._result = _checked_result(head, blob)
            case wire.Dropped(count):
                self._budget.learn(count, is_all=False)
            case wire.Failed():
                self._failed = head
                self._budget.learn(head.dropped, is_all=True)
            case wire.Done(count):
                self._done = True
                self._budget.learn(count, is_all=True)

    async def _take_output(self, level: LogType, lines: OutputLines, data: bytes) -> None:
        """No data: the pipe's end."""
        if level is LogType.DEBUG:
            self._printed.add(data)
            if self._printed.is_too_much:
                self.end(Cause.OUTPUT_LIMIT)
        else:
            self._last_words = (self._last_words + data)[-_LAST_WORDS_BYTES:]
        if self._budget.is_full and data:
            self._budget.drop(lines.skip(data))
            return
        for line in lines.feed(data) if data else lines.rest():
            await self._log(level, line)

    async def _log(self, level: LogType, content: str) -> None:
        if (entry := self._budget.admit(LogEntry(type=level, content=content, at=now()))) is not None:
            await self._on_log(entry)

    def _completed_result(self) -> Result:
        if self._result is not None:
            return self._result
        return Result(value=self._printed.value)


class _Printed:
    """Standard output, which is the result of a plain program, as its engine says in the first frame.

    Output and frames come through two pipes, so output may be read before the frame that was written first: it is kept
    until that is known.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._has_overflowed = False
        self._is_plain: bool | None = None

    def learn(self, *, is_plain: bool) -> None:
        """The first frame says it, the others change nothing."""
        if self._is_plain is None:
            self._is_plain = is_plain
        if not self._is_plain:
            self._data.clear()

    def add(self, data: bytes) -> None:
        if self._is_plain is False or self._has_overflowed:
            return
        self._has_overflowed = len(self._data) + len(data) > self._max_bytes
        if not self._has_overflowed:
            self._data += data

    @property
    def is_too_much(self) -> bool:
        return self._is_plain is True and self._has_overflowed

    @property
    def value(self) -> bytes:
        return bytes(self._data) if self._is_plain else b""


def _checked_result(head: wire.ResultHead, value: bytes) -> Result:
    """The engine has checked it for its author; here it is checked because the channel is the tenant's. Raises ValueError."""
    headers: dict[str, list[str]] = {}
    for name, text in head.headers:
        headers.setdefault(name, []).append(text)
    return Result(
        value=value,
        status_code=checks.status_code(head.status_code),
        content_type=checks.content_type(head.content_type),
        headers=tuple(checks.headers(headers)),
    )


class Memory(NamedTuple):
    """The run's limit, and whether its runtime said that it aborts for lack of memory: a claim, worth a word and no more."""

    limit_bytes: int
    said_out: bool = False


def conclude(
    cause: Cause | None,
    end: wire.Ended | None,
    failed: wire.Failed | None,
    result: Result,
    wall_ms: float,
    bounds: Bounds,
    memory: Memory,
) -> Outcome:
    """The outcome, by what is known best: our own cause, then the engine's word, then the kernel's.

    `end` None: the launcher has gone, and the run with it.
    """
    usage = _usage(end, wall_ms)
    if cause is not None:
        return Outcome(kind=cause.value, message=_message_of(cause, bounds), usage=usage)
    if end is None:
        message = "the run was interrupted: its launcher went away; it may have had effects"
        return Outcome(kind=OutcomeKind.INTERRUPTED, message=message, usage=usage)
    if failed is not None and failed.kind in _KINDS_OF_ENGINE:
        return Outcome(kind=failed.kind, message=failed.message[:1000], usage=usage)
    if end.wait_status is None or os.WIFSIGNALED(end.wait_status):
        return _killed(end, usage, memory)
    if (code := os.waitstatus_to_exitcode(end.wait_status)) != 0:
        if memory.said_out:
            return _out_of_memory(memory, usage)
        return Outcome(kind=OutcomeKind.ERROR, message=f"the action ended with exit status {code}", usage=usage)
    return Outcome(kind=OutcomeKind.COMPLETED, result=result, usage=usage)


def _usage(end: wire.Ended | None, wall_ms: float) -> Usage:
    if end is None:
        return Usage(wall_ms=round(wall_ms, 3))
    return Usage(
        wall_ms=round(wall_ms, 3),
        cpu_ms=None if end.cpu_us is None else end.cpu_us / 1000,
        memory_peak_bytes=end.memory_peak_bytes,
        tasks_peak=end.tasks_peak,
        oom_kills=end.oom_kills or None,  # worth a word only when there were any
    )


def _killed(end: wire.Ended, usage: Usage, memory: Memory) -> Outcome:
    """By the kernel for its memory, or by a signal; `wait_status` None: with its guard, which only SIGKILL does."""
    number = signal.SIGKILL if end.wait_status is None else os.WTERMSIG(end.wait_status)
    if memory.said_out or (number == signal.SIGKILL and end.oom_kills):
        return _out_of_memory(memory, usage)
    return Outcome(kind=OutcomeKind.KILLED, message=f"the run was killed: {_signal_name(number)}", usage=usage)


def _out_of_memory(memory: Memory, usage: Usage) -> Outcome:
    message = f"out of memory: the limit is {memory.limit_bytes >> 20} MiB; raise memory or use less"
    return Outcome(kind=OutcomeKind.OUT_OF_MEMORY, message=message, usage=usage)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals between the first and the last have none
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _message_of(cause: Cause, bounds: Bounds) -> str:
    match cause:
        case Cause.TIMEOUT:
            return TIMEOUT_MESSAGE
        case Cause.CANCELLED:
            return "the run was cancelled"
        case Cause.INTERRUPTED:
            return "the run was interrupted: the appliance is stopping"
        case Cause.OUTPUT_LIMIT:
            return f"the result is over the limit of {bounds.max_result_bytes} bytes (MAX_RESULT_BYTES)"
        case Cause.MALFORMED:
            return "the action wrote to its engine's channel what is no frame"
