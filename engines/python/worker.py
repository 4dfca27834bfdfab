"""One run, in a process that was forked for it and ends with it.

read the job → streams → compile → an action: execute, call Run(engine) · a plain program: execute → wait for its
threads → say how it ended. The server believes the exit status before it believes the channel, so the status says the
same: 0 completed, 1 failed.
"""

import asyncio
import atexit
import inspect
import os
import random
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from engines.python import source
from engines.python.engine import Engine, Header, Log, Params, Request, Result
from engines.python.errors import failure_of, is_user_file, one_line
from engines.python.frames import Channel, CutError, read_frame
from engines.python.job import Job
from engines.python.streams import Streams
from engines.python.text import cut, encode

_THREAD_STACK = 1024 * 1024  # bytes: the default of 8 MiB a thread would count against the memory limit (RLIMIT_DATA)


def run_job(job_fd: int, out_fd: int, confine: Callable[[dict[str, Any]], None]) -> int:
    """Runs the one job that `job_fd` brings and reports on `out_fd`; returns the process's exit status.

    Descriptors 0, 1 and 2 are the run's own already. The end of file before a job: the sandbox was retired, status 0.
    `confine` is called with the job's limits before anything of the author's is executed.
    """
    try:
        frame = read_frame(job_fd)
    except CutError:
        return 1
    if frame is None:
        return 0
    os.close(job_fd)
    os.set_inheritable(out_fd, False)
    job = Job.from_frame(*frame)
    del frame
    confine(job.limits)
    return _Worker(job, Channel(out_fd, job.max_log_bytes)).run()


class _Worker:
    def __init__(self, job: Job, channel: Channel) -> None:
        self._job = job
        self._channel = channel
        random.seed()
        threading.stack_size(_THREAD_STACK)
        threading.excepthook = self._log_thread_error
        self._streams = Streams(channel)

    def run(self) -> int:
        try:
            self._execute()
            self._wait_for_threads()
        except SystemExit as error:
            return self._exited(error)
        except BaseException as error:
            return self._failed(error)
        return self._completed()

    def _execute(self) -> None:
        source.remember(self._job.source)
        code = compile(self._job.source, source.FILE, "exec", dont_inherit=True)
        is_action = source.defines_run(code)
        module = source.make_module(is_action=is_action)
        if not is_action:
            self._channel.send({"type": "plain"})
            self._streams.pass_output()
            exec(code, module.__dict__)
            return
        self._streams.log_output()
        exec(code, module.__dict__)
        self._call(module.__dict__.get("Run"))

    def _call(self, run: object) -> None:
        printed = self._streams.collected()
        engine = self._engine()
        if not callable(run):
            engine.result.set(printed)
            return
        returned = run(engine)
        if inspect.iscoroutine(returned):
            asyncio.run(returned)
        elif inspect.isawaitable(returned):
            asyncio.run(_wait(returned))

    def _engine(self) -> Engine:
        job, log = self._job, Log(self._channel)
        request = Request(job.method, job.path, Params(job.params), Header(job.headers), job.body, log)
        return Engine(request, Result(self._channel, job.max_result_bytes, self._end_run))

    def _wait_for_threads(self) -> None:
        """As the interpreter does at its end: threads that aren't daemons, thread pools, then what atexit was given."""
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()

    def _completed(self) -> int:
        self._end({"type": "done", "dropped": self._channel.dropped})
        return 0

    def _exited(self, error: SystemExit) -> int:
        """sys.exit(): a status of 0 completes; a text is an error message, as in any Python program."""
        if error.code is None or (isinstance(error.code, int) and error.code == 0):
            return self._ended_by_exit()
        if isinstance(error.code, int):
            return self._fail("error", f"the action exited with status {error.code}")
        text = str(error.code)
        self._log_error(text)
        return self._fail("error", one_line(text) or "the action exited with status 1")

    def _ended_by_exit(self) -> int:
        try:
            self._wait_for_threads()
        except BaseException as error:
            return self._failed(error)
        return self._completed()

    def _failed(self, error: BaseException) -> int:
        failure = failure_of(error, self._job.limits)
        self._log_error(failure.traceback)
        return self._fail(failure.kind, failure.message)

    def _fail(self, kind: str, message: str) -> int:
        self._end({"type": "failed", "kind": kind, "message": message, "dropped": self._channel.dropped})
        return 1

    def _end_run(self, kind: str, message: str) -> NoReturn:
        """Not an exception: an action's `except:` would catch it, and in a thread it would end the thread only."""
        self._log_error(message + _caller())
        os._exit(self._fail(kind, message))

    def _end(self, frame: dict[str, object]) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # a forgotten alarm would go off between the last frames
        self._streams.end()
        if self._channel.is_owner():
            self._channel.send(frame)

    def _log_error(self, text: str) -> None:
        self._streams.end()
        self._channel.log("error", encode(cut(text)))

    def _log_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """A thread's uncaught exception fails the thread, not the run, as in any Python program."""
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            self._log_error(failure_of(args.exc_value, self._job.limits).traceback)


async def _wait(awaitable: Awaitable[object]) -> None:
    await awaitable


def _caller() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return f" (line {frame.f_lineno})" if is_user_file(frame.f_code.co_filename) else ""
