"""The proof's table. Each row has a limit: a step that hangs says what it waited for, and the others are tried all the same."""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

STEP_SECONDS = 400  # ten times what most take in emulation
_QUESTION_SECONDS = 60
_STEPS = tuple(str(Path(__file__).parent.parent / name) for name in ("vm/proof.py", "installed/"))


class TookTooLong(BaseException):
    """No step may take it for an error of its own."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises `TookTooLong` in the main thread, where that waits. One at a time."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLong

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Table:
    """`is_alive`: whether the machine answers; `describe`: what it says of itself, for whoever reads of a step that failed."""

    def __init__(self, is_alive: Callable[[], bool], describe: Callable[[], str]) -> None:
        self.failed = False
        self._is_alive = is_alive
        self._describe = describe

    def row(self, name: str, step: Callable[[], str], seconds: float = STEP_SECONDS) -> None:
        began = time.monotonic()
        mark, told = self._outcome(step, seconds)
        print(f"{mark:7} {time.monotonic() - began:6.1f} s  {name:36} {told}", flush=True)
        if mark == "FAILED":
            self._explain()
        self.failed |= mark != "ok"

    def _outcome(self, step: Callable[[], str], seconds: float) -> tuple[str, str]:
        """A machine may be gone after a step that failed, and never before the first."""
        if self.failed and not self._is_alive():
            return "NOT RUN", "the machine doesn't answer"
        try:
            with at_most(seconds):
                return "ok", step()
        except TookTooLong as hang:
            return "FAILED", f"not within {seconds:.0f} s: {_line_of(hang)}"
        except Exception as error:  # noqa: BLE001 - a table of all, whatever fails
            traceback.print_exc()
            return "FAILED", f"{type(error).__name__}: {error}"

    def _explain(self) -> None:
        with suppress(OSError, TookTooLong), at_most(_QUESTION_SECONDS):
            print(self._describe(), file=sys.stderr, flush=True)


def _line_of(hang: TookTooLong) -> str:
    """The step's own, not those of what it called, nor ours that gave it up."""
    frames = [frame for frame in traceback.extract_tb(hang.__traceback__) if frame.filename.startswith(_STEPS)]
    return f"{frames[-1].name} waited at `{frames[-1].line}`" if frames else "it waited"
