"""What an action writes, made into log entries of bounded size and number."""

from appliance.entities import LogType, now
from appliance.runner.outcome import LogEntry

MAX_CONTENT = 8000  # characters of one entry, the mark included: the contract's figure
MARK = " …[truncated]"
_MAX_LINE_BYTES = MAX_CONTENT * 4  # no entry needs more of a line than that
_LEAST_BYTES = 32  # what an entry counts at least: else a flood of empty lines would never be too much
_MOST_COUNTED = 10**18  # entries: Python refuses to show an integer of more than 4300 digits


def cut(content: str) -> str:
    return content if len(content) <= MAX_CONTENT else content[: MAX_CONTENT - len(MARK)] + MARK


class OutputLines:
    """Bytes of standard output or error → lines of text. A line that is too long is cut, and its rest passed over."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[str]:
        *whole, pending = data.split(b"\n")
        lines = []
        for part in whole:
            if (line := self._finish(part)) is not None:
                lines.append(line)
        if not self._skipping:
            self._pending += pending
            if len(self._pending) > _MAX_LINE_BYTES:
                lines.append(self._text() + MARK)
                self._skipping = True
        return [cut(line) for line in lines]

    def skip(self, data: bytes) -> int:
        """As `feed`, but only counts: for a flood of which nothing is kept."""
        ended = data.count(b"\n")
        self._pending[:] = data[data.rfind(b"\n") + 1 :][-1:]
        if self._skipping and ended:
            self._skipping = False
            return ended - 1
        return ended

    def rest(self) -> list[str]:
        """What came after the last newline."""
        return [cut(self._text())] if self._pending and not self._skipping else []

    def _finish(self, part: bytes) -> str | None:
        if self._skipping:
            self._skipping = False
            return None
        self._pending += part
        return self._text()

    def _text(self) -> str:
        text = self._pending.decode(errors="replace")
        self._pending.clear()
        return text.rstrip("\r")


class LogBudget:
    """Lets entries pass until a run's log is full, and counts those that it drops."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._dropped = 0
        self._dropped_before = 0  # they came to us
        self._knows_all = True

    def admit(self, entry: LogEntry) -> LogEntry | None:
        size = max(len(entry.content.encode(errors="replace")), _LEAST_BYTES)
        if self._dropped or size > self._left:
            self._dropped += 1
            return None
        self._left -= size
        return entry

    @property
    def is_full(self) -> bool:
        return self._dropped > 0

    def drop(self, count: int) -> None:
        self._dropped += count

    def learn(self, count: int, *, is_all: bool) -> None:
        """That many, in all, the engine has dropped until now, as a tenant may have made up; or until its end."""
        if count >= self._dropped_before:
            self._dropped_before = min(count, _MOST_COUNTED)
            self._knows_all = is_all

    def last_entry(self) -> LogEntry | None:
        """Says how many were dropped, if any."""
        if not (dropped := self._dropped + self._dropped_before):
            return None
        count = f"{dropped} log entries were" if dropped > 1 else "1 log entry was"
        if not self._knows_all:
            count = f"at least {count}"
        text = f"{count} dropped: a run's log is at most {self._max_bytes} bytes (MAX_LOG_BYTES)"
        return LogEntry(type=LogType.ERROR, content=text, at=now())
