"""What takes the place of sys.stdin, sys.stdout and sys.stderr while an action runs.

An action's output becomes log entries, a line each, by the same channel as `engine.log`, so that their order is kept.
`fileno()` is still 1 or 2, for what wants a descriptor; what is written there by other means (a child process, C code)
the server reads from the pipe behind it. A plain program's standard output is that pipe: it is the result.
"""

import contextlib
import io
import sys
from typing import Any, BinaryIO, TextIO, cast

from engines.python.frames import Channel
from engines.python.text import MAX_LOG_CHARACTERS, REPLACE, cut, encode

_KEPT_OF_A_LINE = 4 * (MAX_LOG_CHARACTERS + 1)  # bytes: enough for a log entry to be seen as cut


class LineSink(io.BufferedIOBase):
    """Bytes in, a log entry a line out. `collected` holds all that was written, as long as someone wants it."""

    def __init__(self, channel: Channel, level: str, fd: int) -> None:
        self._channel = channel
        self._level = level
        self._fd = fd
        self._line = bytearray()
        self.collected: bytearray | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        text = bytes(data)
        if self.collected is not None:
            self.collected += text
        first, *others = text.split(b"\n")
        self._keep(first)
        for line in others:
            self.end_line()
            self._keep(line)
        return len(text)

    def _keep(self, part: bytes) -> None:
        self._line += part[: max(0, _KEPT_OF_A_LINE - len(self._line))]

    def end_line(self) -> None:
        line, self._line = self._line, bytearray()
        self._channel.log(self._level, encode(cut(line.decode("utf-8", "replace"))))

    def end(self) -> None:
        """What was written without a line's end at last."""
        if self._line:
            self.end_line()


class Streams:
    """The replaced streams of one run."""

    def __init__(self, channel: Channel) -> None:
        """Replaces nothing yet."""
        self._out = LineSink(channel, "debug", 1)
        self._error = LineSink(channel, "error", 2)
        self._stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        self._stdout, self._stderr = _text(self._out), _text(self._error)
        self._replaced = sys.__stdin__, sys.__stdout__, sys.__stderr__  # to take them apart would copy fifty pages

    def install(self) -> None:
        """Standard input and error; standard output when it is known what it is."""
        sys.stdin = sys.__stdin__ = self._stdin  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._stderr  # type: ignore[misc, assignment]

    def log_output(self) -> None:
        """Standard output becomes log entries; it is also collected until `collected` is called."""
        self._out.collected = bytearray()
        sys.stdout = sys.__stdout__ = self._stdout  # type: ignore[misc, assignment]

    def pass_output(self) -> None:
        """Standard output goes to descriptor 1 as it is, line by line: a kill loses none that was printed, and those of a child
        process come where they belong."""
        out = open(1, "w", buffering=1, encoding="utf-8", errors=REPLACE, closefd=False)  # noqa: SIM115
        sys.stdout = sys.__stdout__ = out  # type: ignore[misc]

    def collected(self) -> bytes:
        """Standard output up to now; from now on it isn't kept."""
        text, self._out.collected = self._out.collected, None
        return bytes(text or b"")

    def end(self) -> None:
        """Everything written so far is sent, whatever the action did to its streams."""
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(Exception):
                stream.flush()  # type: ignore[union-attr]
        self._out.end()
        self._error.end()


def _text(sink: LineSink) -> TextIO:
    return io.TextIOWrapper(cast(BinaryIO, sink), encoding="utf-8", errors=REPLACE, line_buffering=True, write_through=True)
