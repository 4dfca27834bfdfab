"""Runs a job in a worker of a language, over real pipes."""

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from engines.python.frames import read_frame
from engines.spec import LanguageSpec
from engines.table import Language, spec_of
from tests.appliance import INTERPRETER, SOURCES
from tests.cases import ROOT, CaseLimits, CaseRequest

DEFAULT_MEMORY_BYTES = 256 * 1024 * 1024
HANG_GUARD = 30.0  # seconds; the slowest case takes less than 2
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}  # a sandbox's


class Ran(msgspec.Struct):
    """What came back: frames in order, what the pipes behind descriptors 1 and 2 held, the exit status."""

    frames: list[tuple[dict[str, Any], bytes]]
    stdout: bytes
    stderr: bytes
    exit_status: int
    has_died_of_memory: bool = False

    @property
    def last(self) -> dict[str, Any]:
        return self.frames[-1][0]

    @property
    def outcome(self) -> str:
        if self.frames and self.last["type"] == "failed":
            return str(self.last["kind"])
        if self.exit_status and self.has_died_of_memory:
            return "out_of_memory"
        if self.exit_status < 0:
            return "killed"
        return "completed" if self.exit_status == 0 else "error"

    @property
    def logs(self) -> list[tuple[str, str]]:
        """A plain program's output is its result, and logged by the server besides."""
        sent = [(header["level"], blob.decode()) for header, blob in self.frames if header["type"] == "log"]
        return sent + [("debug", line) for line in self.stdout.decode("utf-8", "replace").splitlines() if self.is_plain]

    @property
    def is_plain(self) -> bool:
        return bool(self.frames) and self.frames[0][0]["type"] == "plain"

    @property
    def result(self) -> tuple[dict[str, Any], bytes]:
        if self.is_plain:
            return {"status_code": 200, "content_type": "text", "headers": []}, self.stdout
        results = [frame for frame in self.frames if frame[0]["type"] == "result"]
        return results[-1] if results else ({"status_code": 200, "content_type": "text", "headers": []}, b"")


class Worker:
    """Runs sources in workers forked from one zygote."""

    def __init__(self, zygote: socket.socket, spec: LanguageSpec) -> None:
        self._zygote = zygote
        self._spec = spec

    def run(
        self,
        source: str,
        request: CaseRequest = CaseRequest(),
        limits: CaseLimits = CaseLimits(),
        *,
        max_log_bytes: int = 1024 * 1024,
        max_result_bytes: int = 10 * 1024 * 1024,
    ) -> Ran:
        text = source.encode()
        header = {
            "type": "job",
            "source_bytes": len(text),
            "method": request.method,
            "path": request.path,
            "params": request.params,
            "headers": request.headers,
            "limits": {"memory_bytes": DEFAULT_MEMORY_BYTES, "tasks": 64} | msgspec.to_builtins(limits),
            "max_log_bytes": max_log_bytes,
            "max_result_bytes": max_result_bytes,
        }
        return self.send(frame(header, text + request.body_bytes), limits)

    def send(self, job: bytes, limits: CaseLimits = CaseLimits()) -> Ran:
        (job_in, job_out), (out_in, out_out), (stdout_in, stdout_out), (stderr_in, stderr_out) = (os.pipe() for _ in range(4))
        given = [job_in, out_out, stdout_out, stderr_out]
        room = self._spec.room(limits.memory_bytes or DEFAULT_MEMORY_BYTES)
        request = msgspec.to_builtins(limits) | {"uid": next_uid(), "room": room}
        socket.send_fds(self._zygote, [json.dumps(request).encode()], given)
        for fd in given:
            os.close(fd)
        frames: list[tuple[dict[str, Any], bytes]] = []
        outputs = {stdout_in: bytearray(), stderr_in: bytearray()}
        readers = [start(lambda: read_frames(out_in, frames)), *(start(drain(fd, data)) for fd, data in outputs.items())]
        with open(job_out, "wb") as pipe:
            pipe.write(job)
        status = int(self._zygote.recv(64))
        for reader in readers:
            reader.join(HANG_GUARD)
            assert not reader.is_alive()
        for fd in (out_in, stdout_in, stderr_in):
            os.close(fd)
        stderr = bytes(outputs[stderr_in])
        has_died_of_memory = self._spec.died_of_memory(stderr)
        return Ran(frames, bytes(outputs[stdout_in]), stderr, os.waitstatus_to_exitcode(status), has_died_of_memory)


def frame(header: dict[str, Any], blob: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "big") + len(blob).to_bytes(4, "big") + text + blob


def read_frames(fd: int, frames: list[tuple[dict[str, Any], bytes]]) -> None:
    while (found := read_frame(fd)) is not None:
        header, blob = found
        frames.append((header, bytes(blob)))


def drain(fd: int, data: bytearray) -> Callable[[], None]:
    def read() -> None:
        while part := os.read(fd, 65536):
            data.extend(part)

    return read


def start(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


_uids = iter(range(1_950_000_000, 1_950_100_000))


def next_uid() -> int:
    """A uid of its own for a worker whose processes are counted."""
    return next(_uids) + os.getpid() % 10_000 * 10


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    with workers(Language.PYTHON, "") as worker:
        yield worker


@pytest.fixture(scope="session")
def javascript() -> Iterator[Worker]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on PATH: the JavaScript engine is not tried")
    with workers(Language.JAVASCRIPT, node) as worker:
        yield worker


@contextmanager
def workers(language: Language, program: str) -> Iterator[Worker]:
    spec = spec_of(language)
    arguments = [spec.run.preload, os.path.realpath(program) if program else ""]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(HANG_GUARD)
    code = (
        f"import sys; sys.path[:0] = {[str(SOURCES), str(ROOT)]!r}; from tests.engines.zygote import main; main(*{arguments!r})"
    )
    with subprocess.Popen([INTERPRETER, "-I", "-c", code], stdin=theirs.fileno(), env=ENVIRONMENT) as process:
        theirs.close()
        try:
            yield Worker(ours, spec)
        finally:
            ours.close()
        assert process.wait(HANG_GUARD) == 0
