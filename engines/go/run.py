"""One run of a Go program: starts what the source was compiled to, and stays its parent.

THEORY OF OPERATION

A Go program that panics in a goroutine, or meets a fatal error of its runtime, ends at once, and nothing in it can tell of
that. So this process waits beside it: it reads the program's standard error, where the runtime prints its last words, and
makes a failure in the author's words and lines of them. What only looks like that (a program may log `panic: …` of what it has
recovered from) is passed on as soon as it is known to be none: the program lives on, or ends in another way.

The program comes with the claim, or ahead of it. It is started at once, and waits for its job itself (gate/gate.go), before
anything of the author's is executed; but one that could get past that gate is started only when its job is there. What it was
compiled of lies behind it in the same file.

This process also reads the standard output of an action, in which the engine (engine/channel.go) writes its log records between
the lines that the action prints: one pipe keeps their order. Results the program sends to the server itself; both take turns by
a lock on the pipe.

Where `Run` has come to its end, the program's own end isn't waited for: it writes that as its last record, and stops. To exit
takes the processor that this process needs to say so.

A plain program's standard output is its result, and goes to the server as it is.
"""

import contextlib
import gc
import json
import os
import select
import signal
import struct
import time
from collections.abc import Mapping
from typing import Any

from engines.go.crash import STACK, START, TRACE, Crash, explain, signal_of, start_of
from engines.go.source import is_plain, may_pass_the_gate, source_of
from engines.python.frames import Channel
from engines.python.text import cut, cut_middle, encode
from engines.spec import OFTEN, Place, Program

_MARK = b"\x00\x1bcodeactions\x1b\x00"
_PIECE = struct.Struct(">BH")
_READ_BYTES = 64 << 10
_KEPT_OF_CRASH = 256 << 10  # bytes: a traceback of many goroutines is cut there
_END_OF_TRACE = 4 << 10  # bytes, in which some of a traceback's lines are, if it is still one
_KEPT_OF_LINE = 32 << 10
_PATIENCE_S = 0.2  # within which the runtime writes its stack below the first of its last words
_PATIENCE_WITH_STACK_S = 2.0  # within which it has ended then; it counts the frames of an endless recursion, which takes a while
_LEVELS = {ord("d"): "debug", ord("i"): "info", ord("e"): "error"}
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "TZ")
_LAST = b'{"dropped":0}'
_COMPLETED = _MARK + _PIECE.pack(ord("f"), len(_LAST)) + _LAST
# The runtime maps memory that it doesn't touch, a heap arena's map of 32 MiB for one, and RLIMIT_DATA counts it: a program that
# does nothing needs 40 MiB by that count, one with net/http 76. GOMEMLIMIT, and a scope, count what is touched.
_UNTOUCHED_BYTES = 48 << 20
_MARGIN = 0.85  # of the memory limit is where the collector begins to work hard; the rest is for stacks, files and us
_NOTHING = Program(-1, {"memory_bytes": 0, "tasks": 0})
_NOWHERE = Place(job=-1, answers=-1, room=0, confine=lambda limits: None, program=lambda: _NOTHING)


def prepare(program: str) -> str:
    for _ in range(OFTEN):
        _rehearse(_NOWHERE)
    return "go"


def work(place: Place) -> int:
    """Starts the program, which waits for its job itself; returns 0 when it completed, 1 when it failed."""
    if place.rehearses:
        _rehearse(place)
    gc.freeze()
    gc.enable()
    try:
        program = place.program()
    except EOFError:
        return 0
    source = source_of(program.descriptor)
    place.confine({**program.limits, "memory_bytes": program.limits["memory_bytes"] + _UNTOUCHED_BYTES})
    run = _Run(place, program.limits, source)
    if may_pass_the_gate(source) and not _job_is_there(place.job):
        return 0
    run.start(program.descriptor)
    return run.see_through()


def _job_is_there(job: int) -> bool:
    """Waits for it; False when there will be none."""
    poll = select.poll()
    poll.register(job, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll())


def _rehearse(place: Place) -> None:
    """A run of no program, to nowhere: see engines/python/rehearsal.py."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        _Run(place._replace(job=nowhere, answers=nowhere), _NOTHING.limits, "").rehearse(nowhere)
    finally:
        os.close(nowhere)


class _Run:
    def __init__(self, place: Place, limits: Mapping[str, Any], source: str) -> None:
        self._place = place
        self._limits = limits
        self._source = source
        self._channel = Channel(place.answers, 1 << 60)  # the engine in the program has counted, and the server counts again
        self._channel.lock_for_all()
        self._output = _Output(self._channel)
        self._errors = _Errors()
        self._readers: dict[int, _Output | _Errors] = {}  # who takes what is read from which descriptor
        self._pid = 0

    def see_through(self) -> int:
        """Until its end. One that ends without a job, because the sandbox is retired, is told of too, and nobody hears that."""
        self._read_until_the_end()
        status = 0 if self._output.has_completed else os.waitpid(self._pid, 0)[1]
        self._drain()
        self._output.end()
        return self._conclude(status)

    def rehearse(self, nothing: int) -> None:
        with contextlib.suppress(PermissionError):
            self.start(nothing)
        self._output.take(_COMPLETED)
        self._drain()
        self._output.end()
        self._conclude(0)
        for fd in self._readers:
            os.close(fd)

    def start(self, program: int) -> None:
        """The program reads its job before it executes anything of the author's."""
        error_in, error_out = os.pipe2(os.O_CLOEXEC)
        self._readers[error_in] = self._errors
        actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, error_out, 2)]
        given = [error_out, *self._high(self._place.job, self._place.answers)]
        if is_plain(self._source):
            self._channel.send({"type": "plain"})
            actions += [(os.POSIX_SPAWN_DUP2, given[1], 3)]
        else:
            output_in, output_out = os.pipe2(os.O_CLOEXEC)
            self._readers[output_in] = self._output
            given.append(output_out)
            actions += [(os.POSIX_SPAWN_DUP2, output_out, 1)]
            actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + index) for index, fd in enumerate(given[1:3])]
        binary = os.dup2(program, 210, inheritable=False)  # it is closed when it is executed
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= {"GOMEMLIMIT": str(int(self._limits["memory_bytes"] * _MARGIN)), "CODEACTIONS_JOB": "3"}
        path, defaults = f"/proc/self/fd/{binary}", (signal.SIGPIPE, signal.SIGINT)
        try:
            self._pid = os.posix_spawn(path, ["action"], environment, file_actions=actions, setsigdef=defaults)
        finally:
            for fd in (*given, binary):
                os.close(fd)

    @staticmethod
    def _high(*fds: int) -> list[int]:
        """Copies, out of the way of the places that they go to, which are closed when a program is executed."""
        return [os.dup2(fd, 200 + index, inheritable=False) for index, fd in enumerate(fds)]

    def _read_until_the_end(self) -> None:
        """Until the program has ended, or has nothing left to do but that: others that it started may hold its output open."""
        ended = os.pidfd_open(self._pid)
        poll = select.poll()
        for fd in (ended, *self._readers):
            poll.register(fd, select.POLLIN)
        while not self._output.has_completed and not any(fd == ended for fd, _ in self._ready(poll)):
            pass
        os.close(ended)

    def _ready(self, poll: "select.poll") -> list[tuple[int, int]]:
        found = poll.poll(self._errors.patience_ms())
        for fd, _ in found:
            if (taker := self._readers.get(fd)) is not None:
                data = os.read(fd, _READ_BYTES)
                taker.take(data)
                if not data:
                    poll.unregister(fd)
        self._errors.let_go()
        return found

    def _drain(self) -> None:
        """What it wrote before its end."""
        for fd, taker in self._readers.items():
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while data := os.read(fd, _READ_BYTES):
                    taker.take(data)

    def _conclude(self, status: int) -> int:
        if not self._output.last and (killed := signal_of(self._errors.words(), status)) is not None:
            start, number = killed
            self._errors.pass_on(start)
            _end_by(number)
        crash = self._crash(status)
        if crash is not None:
            self._channel.log("error", encode(cut_middle(crash.traceback)))
            return self._fail(crash.kind, crash.message)
        if os.WIFSIGNALED(status):
            _end_by(os.WTERMSIG(status))
        if (code := os.waitstatus_to_exitcode(status)) != 0:
            last = self._output.last
            return self._fail(last.get("kind", "error"), last.get("message", f"the action exited with status {code}"))
        self._channel.send({"type": "done", "dropped": self._output.dropped})
        return 0

    def _crash(self, status: int) -> Crash | None:
        """Passes on what was written to standard error and isn't the crash's."""
        words = self._errors.words()
        start = start_of(words, status) if not self._output.last else None
        if start is None:
            self._errors.pass_on()
            return None
        self._errors.pass_on(start)
        return explain(words[start:].decode("utf-8", "replace"), self._source, self._limits)

    def _fail(self, kind: str, message: str) -> int:
        self._channel.send({"type": "failed", "kind": kind, "message": message, "dropped": self._output.dropped})
        return 1


def _end_by(number: int) -> None:
    """The guard reports how we ended, so we end as the program did."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class _Output:
    """An action's standard output: lines, and the engine's records between them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._data = bytearray()
        self._line = bytearray()
        self._pieces = bytearray()
        self.last: dict[str, Any] = {}

    @property
    def has_completed(self) -> bool:
        """The engine in the program has said its last word, that `Run` came to its end: what it does after that is to stop."""
        return bool(self.last) and "kind" not in self.last

    @property
    def dropped(self) -> int:
        return int(self.last.get("dropped", 0))

    def take(self, data: bytes) -> None:
        self._data += data
        while (start := self._data.find(_MARK)) >= 0:
            head = start + len(_MARK)
            if len(self._data) < head + _PIECE.size:
                return
            level, size = _PIECE.unpack_from(self._data, head)
            end = head + _PIECE.size + size
            if len(self._data) < end:
                return
            self._take_text(bytes(self._data[:start]))
            self._take_piece(level, bytes(self._data[head + _PIECE.size : end]))
            del self._data[:end]
        keep = self._begun_mark()
        self._take_text(bytes(self._data[: len(self._data) - keep]))
        del self._data[: len(self._data) - keep]

    def _begun_mark(self) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        longest = min(len(_MARK) - 1, len(self._data))
        return next((size for size in range(longest, 0, -1) if self._data.endswith(_MARK[:size])), 0)

    def _take_piece(self, level: int, content: bytes) -> None:
        self._pieces += content
        if level == 0:
            return
        whole, self._pieces = bytes(self._pieces), bytearray()
        if level == ord("f"):
            self.last = json.loads(whole)
        elif level == ord("n") and whole.isdigit():
            self._channel.send({"type": "dropped", "dropped": int(whole)})
        else:
            self._channel.log(_LEVELS.get(level, "debug"), whole)

    def _take_text(self, text: bytes) -> None:
        first, *others = text.split(b"\n")
        self._line += first[: _KEPT_OF_LINE - len(self._line)]
        for line in others:
            self._end_line()
            self._line += line[:_KEPT_OF_LINE]

    def _end_line(self) -> None:
        line, self._line = self._line, bytearray()
        self._channel.log("debug", encode(cut(line.decode("utf-8", "replace"))))

    def end(self) -> None:
        self._take_text(bytes(self._data))
        self._data.clear()
        if self._line:
            self._end_line()


class _Errors:
    """Standard error: passed on as it comes, but for what may be the runtime's last words.

    Those are kept even when they were passed on after all: a program may be slow in dying.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._words = bytearray()
        self._held_since: float | None = None
        self._has_stack = False

    def take(self, data: bytes) -> None:
        self._held += data
        if self._words:
            self._words += data[: _KEPT_OF_CRASH - len(self._words)]
        if self._held_since is None:
            self._hold_or_pass_on()
        self._has_stack = self._held_since is not None and (self._has_stack or STACK.search(self._held) is not None)
        if self._held_since is not None and len(self._held) > _KEPT_OF_CRASH:
            if self._has_stack and TRACE.search(self._held, len(self._held) - _END_OF_TRACE):
                del self._held[_KEPT_OF_CRASH:]
            else:
                self._release()

    def _hold_or_pass_on(self) -> None:
        """Whole lines; from the first one on that may begin a crash they are held."""
        if (found := START.search(self._held)) is None:
            self._pass_lines_on()
            return
        self._write(bytes(self._held[: found.start()]))
        del self._held[: found.start()]
        self._words = self._held[:_KEPT_OF_CRASH]
        self._held_since = time.monotonic()

    def patience_ms(self) -> float | None:
        """How long to wait for more before `let_go`; None: for ever."""
        return None if self._held_since is None else max(0.0, (self._due() - time.monotonic()) * 1000)

    def let_go(self) -> None:
        """Passes on what is held, when the program has lived on for too long since."""
        if self._held_since is not None and time.monotonic() >= self._due():
            self._release()

    def _due(self) -> float:
        assert self._held_since is not None
        return self._held_since + (_PATIENCE_WITH_STACK_S if self._has_stack else _PATIENCE_S)

    def _release(self) -> None:
        self._held_since = None
        self._has_stack = False
        self._pass_lines_on()

    def _pass_lines_on(self) -> None:
        end = self._held.rfind(b"\n") + 1
        self._write(bytes(self._held[:end]))
        del self._held[:end]

    def words(self) -> bytes:
        """From the last line on that may have begun a crash."""
        return bytes(self._words)

    def pass_on(self, start: int | None = None) -> None:
        """What is held, up to the crash that begins at `start` of the words."""
        end = None if start is None else max(0, start - (len(self._words) - len(self._held)))
        self._write(bytes(self._held[:end]))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(2, data) :]
