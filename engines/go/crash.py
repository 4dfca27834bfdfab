"""What the Go runtime prints when a program dies, in the author's words and lines."""

import contextlib
import os
import re
import signal
from collections.abc import Mapping
from typing import Any, NamedTuple

from engines.go.source import FILE

_MIB = 1 << 20
_MAX_MESSAGE = 500  # characters: the message is one line of a JSON answer
_MOST_FRAMES = 20
START = re.compile(rb"^(?:panic: |fatal error: |runtime: |unexpected fault address |SIG[A-Z]+: )", re.MULTILINE)
# What the runtime says before its first words belongs to it.
_BEGINNING = re.compile(
    rb"^(?:(?:runtime: |unexpected fault address |SIG[A-Z]+: ).*\n){0,9}(?:panic|fatal error): ", re.MULTILINE
)
# What every crash has below its first words, and what an author's line that only begins like one has not. Where main has
# called runtime.Goexit there is no goroutine left to show.
STACK = re.compile(rb"^(?:goroutine \d.*:|runtime stack:|fatal error: no goroutines .*)$", re.MULTILINE)
TRACE = re.compile(rb"^(?:goroutine \d|\t.*\.go:\d)", re.MULTILINE)
# Not of any other: one that waits for a signal with nothing else to do may be told of a deadlock in the moment of that.
_FATAL = re.compile(rb"^fatal error: .*(?:out of memory|cannot allocate|cannot reserve)", re.MULTILINE)
_BY_SIGNAL = re.compile(rb"^(SIG[A-Z]+): .*\nPC=0x", re.MULTILINE)
_STATUS = 2  # of a process that panicked or met a fatal error
_HEAD = re.compile(r"^(?:panic|fatal error): (.*?)(?=\n\n|\ngoroutine |\n\[signal |\Z)", re.MULTILINE | re.DOTALL)
_PLACE = re.compile(rf"^(\S.*)\n\t(?:\S*/)?{re.escape(FILE)}:(\d+)", re.MULTILINE)
_ARGUMENTS = re.compile(r"\((?:0x|\.\.\.|\{|\)|[0-9]).*$")
_OUT_OF_MEMORY = ("out of memory", "cannot allocate memory", "cannot allocate heap", "cannot reserve arena")
_NO_PROCESS = re.compile(r"\bfork/exec .*: resource temporarily unavailable")
_NO_THREAD = ("failed to create new OS thread", "newosproc", "pthread_create failed")


class Crash(NamedTuple):
    kind: str
    message: str
    traceback: str


def start_of(words: bytes, status: int) -> int | None:
    """Where the crash begins that ended the program with this wait status; None when the words are none's: a program may log
    `panic: …` of what it has recovered from, and go on."""
    if not (os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == _STATUS):
        return None
    last_stack = max((found.end() for found in STACK.finditer(words)), default=0)
    return max((found.start() for found in _BEGINNING.finditer(words, 0, last_stack)), default=None)


def signal_of(words: bytes, status: int) -> tuple[int, signal.Signals] | None:
    """Where the runtime's words begin on a signal that ended the program, and which; it catches it, shows all goroutines and
    exits. None when it wasn't that, or when it came while the program was dying for lack of memory, which none survives."""
    if os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) != _STATUS:
        return None
    last_stack = max((found.end() for found in STACK.finditer(words)), default=0)
    fatal = _FATAL.search(words)
    for found in reversed(list(_BY_SIGNAL.finditer(words, 0, last_stack))):
        if fatal is not None and STACK.search(words, fatal.end(), found.start()):
            return None
        with contextlib.suppress(KeyError):
            return found.start(), signal.Signals[found[1].decode()]
    return None


def explain(text: str, source: str, limits: Mapping[str, Any]) -> Crash | None:
    """`text` is what was written to standard error from the crash on (`start_of`); None when it is no crash of the runtime's."""
    head = _HEAD.search(text)
    if head is None:
        return None
    reason = _reason(head[1])
    frames = _frames(text[head.end() :])
    lines = source.split("\n")
    shown = [f"  {FILE}:{line}, in {name}\n    {_line(lines, line)}" for name, line in frames[:_MOST_FRAMES]]
    if len(frames) > _MOST_FRAMES:
        shown.append(f"  … {len(frames) - _MOST_FRAMES} more")
    kind, message = _kind(text, reason, limits)
    place = f" (line {frames[0][1]})" if frames else ""
    return Crash(kind, _one_line(message) + place, "\n".join([head[0].replace(head[1], reason), *shown]))


def _reason(text: str) -> str:
    """Without what the runtime adds to it: tabs before further lines, and that it was recovered and panicked again."""
    text = re.sub(r" \[recovered(?:, repanicked)?\]$", "", text.replace("\n\t", "\n"))
    return re.sub(r"^main\.|^actions\.", "", text)


def _frames(trace: str) -> list[tuple[str, int]]:
    """Function and line, innermost first, of the first goroutine that has any of the author's."""
    for goroutine in re.split(r"^goroutine .*:\n", trace, flags=re.MULTILINE):
        frames = [(_function(name), int(line)) for name, line in _PLACE.findall(goroutine) if not name.startswith("created by")]
        if frames:
            return frames
    return []


def _function(name: str) -> str:
    return _ARGUMENTS.sub("", name).rpartition("/")[2].partition(".")[2]


def _line(lines: list[str], number: int) -> str:
    return lines[number - 1].strip() if number <= len(lines) else ""


def _kind(text: str, reason: str, limits: Mapping[str, Any]) -> tuple[str, str]:
    no_process = "too_many_processes", f"too many processes or threads: the limit is {limits['tasks']}"
    if text.startswith("panic: ") and _NO_PROCESS.search(reason):
        return no_process
    if text.startswith("panic: "):
        return "error", f"panic: {reason}"
    if any(words in text for words in _NO_THREAD):
        return no_process
    if any(words in reason for words in _OUT_OF_MEMORY):
        limit = limits["memory_bytes"] // _MIB
        return "out_of_memory", f"out of memory: the limit is {limit} MiB; raise memory or use less"
    return "error", f"fatal error: {reason}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1] + "…"
