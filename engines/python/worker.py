"""One run, in a process that was forked for it and ends with it.

rehearse → read the job → execute it → wait for its threads → say how it ended. The server believes the exit status before
it believes the channel, so the status says the same: 0 completed, 1 failed.
"""

import gc
import mmap
import os
import random
import signal
import sys
import threading
from typing import NoReturn

from engines.python.errors import failure_of, is_user_file, one_line
from engines.python.execute import execute, wait_for_threads
from engines.python.frames import Channel, CutError, read_frame
from engines.python.job import Job
from engines.python.rehearsal import rehearse, rehearse_often
from engines.python.streams import Streams
from engines.python.text import cut, encode
from engines.python.threads import STACK, refuse_stillborn
from engines.spec import Place, leave

_RESERVE = 2 * 1024 * 1024  # bytes, given back when memory has run out, so that this can be said; not touched, so not used


class Worker:
    """Made in the zygote: a worker has in its memory what is there before the fork."""

    def __init__(self) -> None:
        self._channel = Channel()
        self._channel.follow_forks()
        self._streams = Streams(self._channel)
        self._limits: dict[str, object] = {}
        # Not a bytearray, which fills itself with zeros: 512 pages for every sandbox.
        self._reserve = mmap.mmap(-1, _RESERVE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        threading.stack_size(STACK)
        threading.excepthook = self._log_thread_error
        rehearse_often(self._streams)

    def run_job(self, place: Place) -> int:
        """Runs the one job that comes to `place`; returns the process's exit status.

        Descriptors 0, 1 and 2 are the run's own already. The end of file before a job: the sandbox was retired, status 0.
        """
        os.set_inheritable(place.answers, False)
        self._channel.open(place.answers)
        self._streams.install()
        random.seed()
        if place.rehearses:
            rehearse(self._streams)
        gc.freeze()  # what is ours the collector needn't look through, and doesn't until the run has made its own
        gc.enable()
        try:
            frame = read_frame(place.job)
        except CutError:
            return 1
        if frame is None:
            return 0
        os.close(place.job)
        job = Job.from_frame(*frame)
        del frame
        place.confine(job.limits)
        refuse_stillborn()
        return self._run(job)

    def _run(self, job: Job) -> int:
        self._limits = job.limits
        self._channel.max_log_bytes = job.max_log_bytes
        try:
            execute(job, self._channel, self._streams, self._end_run)
            wait_for_threads()
        except SystemExit as error:
            return self._exited(error)
        except BaseException as error:
            return self._failed(error)
        return self._completed()

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
            wait_for_threads()
        except BaseException as error:
            return self._failed(error)
        return self._completed()

    def _failed(self, error: BaseException) -> int:
        self._reserve.close()
        failure = failure_of(error, self._limits)
        self._log_error(failure.traceback)
        return self._fail(failure.kind, failure.message)

    def _fail(self, kind: str, message: str) -> int:
        self._end({"type": "failed", "kind": kind, "message": message, "dropped": self._channel.dropped})
        return 1

    def _end_run(self, kind: str, message: str) -> NoReturn:
        """Not an exception: an action's `except:` would catch it, and in a thread it would end the thread only."""
        self._log_error(message + _place_of_call())
        leave(self._fail(kind, message))

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
            self._log_error(failure_of(args.exc_value, self._limits).traceback)


def _place_of_call() -> str:
    """The line of the author's that led here."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return f" (line {frame.f_lineno})" if is_user_file(frame.f_code.co_filename) else ""
