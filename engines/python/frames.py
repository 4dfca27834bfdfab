"""The job channel's frames: u32 header length | u32 blob length | header (a JSON object in UTF-8) | blob (raw bytes).

One `Channel` a worker. Whoever logs (a thread, a signal handler, a finaliser that the garbage collector runs in the
middle of a frame, a forked child of the action) must not tear another's frame apart, so:

- threads take turns by a lock; who re-enters it in the same thread leaves his frame to the one who is writing;
- from the first fork on, processes take turns by a POSIX lock on the pipe;
- a frame up to PIPE_BUF is written whole or not at all; in a longer one signals wait, so that a handler that raises
  (the usual `signal.alarm` time-out) can't leave half of it.
"""

import collections
import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import struct
import threading
from collections.abc import Iterator
from typing import Any

from engines.python.text import encode

SIZES = struct.Struct(">II")
_LEDGER = struct.Struct("=QQ")  # bytes logged, entries dropped
_LEAST_LOG_BYTES = 32  # what an entry counts at least, as the server counts it
_LOG_HEADERS = {level: json.dumps({"type": "log", "level": level}).encode() for level in ("debug", "info", "error")}
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # a lone surrogate as it is, for `encode`: its escape no reader takes
_HANDLED = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class CutError(EOFError):
    """The other end closed in the middle of a frame."""


def read_frame(fd: int) -> tuple[dict[str, Any], bytearray] | None:
    """The next frame's header and blob; None when the other end closed before it began. Raises CutError."""
    sizes = _read(fd, SIZES.size)
    if not sizes:
        return None
    header_size, blob_size = SIZES.unpack(sizes)
    header = json.loads(_read(fd, header_size))
    return header, _read(fd, blob_size)


def _read(fd: int, size: int) -> bytearray:
    """Exactly `size` bytes, or none at all at the end of the stream. Raises CutError between the two."""
    data = bytearray(size)
    got = 0
    with memoryview(data) as view:
        while got < size:
            count = os.readv(fd, [view[got:]])
            if count == 0:
                break
            got += count
    if got not in (0, size):
        raise CutError(f"{got} bytes of {size}")
    return data[:got] if got < size else data


def is_told(dropped: int) -> bool:
    """At 1, 2, 4, 8, …: a flood of entries doesn't become one of counts."""
    return dropped & (dropped - 1) == 0


class Channel:
    """The engine's end of the channel. A write that the server no longer reads is dropped without a word.

    Past `max_log_bytes`, log entries are dropped and counted. How many is told now and then: a run that is killed says no last
    word. Made without a descriptor, it is to be opened in the process whose run it is.
    """

    _fd: int
    _pid: int
    _ledger: mmap.mmap

    def __init__(self, fd: int | None = None, max_log_bytes: int = 0) -> None:
        self.max_log_bytes = max_log_bytes
        self._lock = threading.RLock()
        self._waiting: collections.deque[tuple[bytes, bytes, bool]] = collections.deque()
        self._writing = False
        self._forked = False
        if fd is not None:
            self.open(fd)

    def open(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        self._ledger = mmap.mmap(-1, _LEDGER.size)  # shared: a forked child's log entries count too

    def follow_forks(self) -> None:
        """From now on, for good, this process's forks may use the channel too."""
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)

    def lock_for_all(self) -> None:
        """For a channel that another program writes to as well, under the same lock."""
        self._forked = True

    def is_owner(self) -> bool:
        """False in a forked child of the action: how the run ended isn't for it to say."""
        return os.getpid() == self._pid

    @property
    def dropped(self) -> int:
        return int(_LEDGER.unpack_from(self._ledger)[1])

    def log(self, level: str, content: bytes) -> None:
        self._send(_LOG_HEADERS[level], content, is_log=True)

    def send(self, header: dict[str, object], blob: bytes = b"") -> None:
        self._send(encode(_to_json(header)), blob, is_log=False)

    def _send(self, header: bytes, blob: bytes, *, is_log: bool) -> None:
        with self._lock:
            self._waiting.append((header, blob, is_log))
            if self._writing:
                return
            self._writing = True
            try:
                while self._waiting:
                    self._write_frame(*self._waiting.popleft())
            finally:
                self._writing = False

    def _write_frame(self, header: bytes, blob: bytes, is_log: bool) -> None:
        head = SIZES.pack(len(header), len(blob)) + header
        with self._among_processes(), _no_failure_of_ours():
            if is_log and not self._has_room(max(len(blob), _LEAST_LOG_BYTES)):
                if not is_told(self.dropped):
                    return
                head, blob = self._dropped_head(), b""
            if len(head) + len(blob) <= select.PIPE_BUF:
                os.write(self._fd, head + blob)
            else:
                self._write_long(head, blob)

    def _dropped_head(self) -> bytes:
        header = _to_json({"type": "dropped", "dropped": self.dropped}).encode()
        return SIZES.pack(len(header), 0) + header

    def _has_room(self, size: int) -> bool:
        """Whether an entry of `size` bytes fits; from the first one that doesn't, all are dropped and counted."""
        used, dropped = _LEDGER.unpack_from(self._ledger)
        fits = not dropped and used + size <= self.max_log_bytes
        _LEDGER.pack_into(self._ledger, 0, used + (size if fits else 0), dropped + (not fits))
        return fits

    def _write_long(self, *parts: bytes) -> None:
        # Each of these calls may run a handler that raises: what was blocked before must be known by then, and be put back.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(self._fd, view) :]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    @contextlib.contextmanager
    def _among_processes(self) -> Iterator[None]:
        if not self._forked:
            yield
            return
        with _no_failure_of_ours():
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with _no_failure_of_ours():
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _before_fork(self) -> None:
        """Waits for a frame that another thread is writing: it was begun without the lock among processes."""
        self._lock.acquire()
        self._forked = True

    def _after_fork(self) -> None:
        self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.RLock()
        self._waiting.clear()
        self._writing = False


@contextlib.contextmanager
def _no_failure_of_ours() -> Iterator[None]:
    """What the kernel refuses us is no trouble of the author's. What his handler raises meanwhile is: TimeoutError, as a rule."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, TimeoutError):
            raise
