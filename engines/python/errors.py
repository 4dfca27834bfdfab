"""An exception that the action didn't catch, in words for its author: what kind of end it is, one line, the traceback.

The traceback shows the author's frames only: not the engine's, not the standard library's.
"""

import errno
import linecache
import opcode
import os
import resource
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from engines.python.source import FILE, MODULE
from engines.python.text import cut_middle

_MAX_MESSAGE = 500  # characters: the message is one line of a JSON answer
_MIB = 1024 * 1024
_KEPT_STACKS = 40 * _MIB  # of threads that have ended, by glibc for the next ones: allocatestack.c
_GIVEN_BACK = 3 * _MIB  # since a thread was refused: the worker's reserve, and what frames that were left had held
_RAISE = opcode.opmap["RAISE_VARARGS"]
_FORKS = frozenset({"fork", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp"})
# Outside a sandbox the engine or the interpreter may lie in /tmp as well: a checkout, an environment.
_PROGRAM = (__file__.rsplit("/", 3)[0], os.path.dirname(os.__file__))


class Failure(NamedTuple):
    kind: str
    message: str
    traceback: str


def failure_of(error: BaseException, limits: dict[str, object]) -> Failure:
    """`limits` has the contract's keys. Frees what the frames of a MemoryError hold before it says anything."""
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)
    shown = traceback.TracebackException(type(error), error, error.__traceback__, lookup_lines=False)
    for each in _all(shown, set()):
        _keep_user_frames(each)
        _add_source_line(each)
    text = cut_middle("".join(line.removeprefix(f"{MODULE}.") for line in shown.format()).rstrip("\n"))
    kind, message = _kind(error, limits)
    return Failure(kind, message + _place(shown), text)


def _all(shown: traceback.TracebackException, seen: set[int]) -> Iterator[traceback.TracebackException]:
    """It, what caused it, and the members of a group."""
    if id(shown) in seen:
        return
    seen.add(id(shown))
    yield shown
    related = [shown.__cause__, shown.__context__, *(shown.exceptions or ())]
    for other in filter(None, related):
        yield from _all(other, seen)


def _keep_user_frames(shown: traceback.TracebackException) -> None:
    frames = [frame for frame in shown.stack if is_user_file(frame.filename)]
    # None leaves the heading "Traceback …" out, which an empty list would not.
    shown.stack = traceback.StackSummary.from_list(frames) if frames else None  # type: ignore[assignment]


def is_user_file(name: str) -> bool:
    """The source itself, what it made by exec, and modules that it wrote to its own /tmp."""
    if name.startswith("/tmp/"):
        return not name.startswith(_PROGRAM)
    return name == FILE or (name.startswith("<") and not name.startswith("<frozen"))


def _add_source_line(shown: traceback.TracebackException) -> None:
    """The compiler, unlike the parser, looks for the line in a file, and there is none."""
    if _is_of_source(shown) and not getattr(shown, "text", None) and shown.lineno:
        shown.text = linecache.getline(FILE, int(shown.lineno))


def _is_of_source(shown: traceback.TracebackException) -> bool:
    return getattr(shown, "filename", None) == FILE


def _place(shown: traceback.TracebackException) -> str:
    if not shown.stack and _is_of_source(shown):
        return f" (line {shown.lineno})"
    lines = [frame.lineno for frame in shown.stack or () if frame.filename == FILE]
    return f" (line {lines[-1]})" if lines else ""


def _kind(error: BaseException, limits: dict[str, object]) -> tuple[str, str]:
    if _is_raised_by_hand(error):
        return "error", summary(error)
    if isinstance(error, MemoryError):
        return "out_of_memory", _out_of_memory(limits.get("memory_bytes"))
    if _is_refused_thread(error) and _is_short_of_memory(limits):
        return "out_of_memory", _out_of_memory(limits.get("memory_bytes"))
    if _is_refused_thread(error) or _is_refused_process(error):
        return "too_many_processes", f"too many processes or threads: the limit is {limits.get('tasks')}"
    return "error", summary(error)


def _is_raised_by_hand(error: BaseException) -> bool:
    """By a statement of the author's that names it: then no limit was met, whatever it is called. To raise anew what was caught
    isn't that."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_frame.f_code.co_filename != FILE:
        return False
    code = last.tb_frame.f_code.co_code
    return code[last.tb_lasti] == _RAISE and code[last.tb_lasti + 1] > 0


def _out_of_memory(limit: object) -> str:
    named = f": the limit is {limit // _MIB} MiB" if isinstance(limit, int) else ""
    return f"out of memory{named}; raise memory or use less"


def _is_refused_thread(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")


def _is_short_of_memory(limits: dict[str, object]) -> bool:
    """Whether a thread was refused for its stack: memory is full, and the limit of tasks isn't reached.

    Threads may have ended since, those of a pool for one. Had there been as many as the limit allows, what isn't kept of their
    stacks counts as well. In a scope, where RLIMIT_DATA isn't set, memory refuses no thread.
    """
    memory, tasks = resource.getrlimit(resource.RLIMIT_DATA)[0], limits.get("tasks")
    if memory == resource.RLIM_INFINITY or not isinstance(tasks, int):
        return False
    with suppress(OSError):  # of too many open files
        ended = tasks - _count_tasks()
        stack = threading.stack_size()
        used = int(_status("self")["VmData"].removesuffix(" kB")) * 1024 + max(0, ended * stack - _KEPT_STACKS)
        return ended > 0 and used + stack + _GIVEN_BACK > memory
    return False


def _count_tasks() -> int:
    """The threads of all the run's processes, known by their uid: the guard in the same /proc has another one, or is hidden."""
    count, uid = 0, str(os.getuid())
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            status = _status(name)
            count += int(status["Threads"]) if status["Uid"].split()[0] == uid else 0
    return count


def _status(process: str) -> dict[str, str]:
    with open(f"/proc/{process}/status") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _is_refused_process(error: BaseException) -> bool:
    """A fork that the kernel refused. EAGAIN from anything else, a non-blocking socket say, isn't that."""
    if not isinstance(error, BlockingIOError) or error.errno != errno.EAGAIN:
        return False
    return not _FORKS.isdisjoint(_last_names(error.__traceback__))


def _last_names(trace: TracebackType | None) -> tuple[str, ...]:
    """The names used by the function that raised."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_names if trace is not None else ()


def summary(error: BaseException) -> str:
    """Type and message on one line."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__", MODULE) else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # the author's own __str__
        text = "<its str() failed>"
    return one_line(f"{name}: {text}" if text else name)


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1] + "…"
