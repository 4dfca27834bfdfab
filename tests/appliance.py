"""A real appliance in a process of its own, for tests and for the bench: started, spoken to, stopped; nothing is left."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from appliance.runner.sandbox import syscalls

ROOT = Path(__file__).resolve().parent.parent
ADMIN = "an-admin-token"
PATIENCE = float(os.environ.get("CODEACTIONS_TEST_PATIENCE", "1"))  # how much slower than usual this machine is: an emulated one
HANG_GUARD = 60.0 * PATIENCE  # seconds; a start takes about 1.5 s on a quiet machine
_POLL_SECONDS = 0.01
_MOST_AT_ONCE = 64

T = TypeVar("T")


_left_network: int | None = None


_FIRST_NETWORK = "CODEACTIONS_TEST_NETWORK"


def leave_the_network() -> None:
    """For good, into an empty one with a loopback: an appliance of root's makes devices and rules where it starts.

    A process that one which has left starts, such as a worker of pytest's, leaves that one's empty network, and knows the first.
    """
    global _left_network
    if os.geteuid() == 0:
        first = os.environ.setdefault(_FIRST_NETWORK, "/proc/self/ns/net")
        _left_network = os.open(first, os.O_RDONLY | os.O_CLOEXEC)
        os.environ[_FIRST_NETWORK] = f"/proc/{os.getpid()}/fd/{_left_network}"
        syscalls.unshare(syscalls.CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def in_tmp() -> set[str]:
    """What lies in /tmp, but for what tests, and the doctors that they start, put there by themselves: several run at a time."""
    others = ("pytest-", "systemd-box.", "tmp", "codeactions-test-", "codeactions-doctor-")
    return {name for name in os.listdir("/tmp") if not name.startswith(others)}


def with_the_network(*command: str) -> tuple[list[str], list[int]]:
    """The command in the network that was left, for what has to fetch packages, and the descriptors that it needs."""
    if _left_network is None:
        return list(command), []
    return ["nsenter", f"--net=/proc/self/fd/{_left_network}", *command], [_left_network]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Whatever it would do waits."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def eventually(value: Callable[[], T], seconds: float = HANG_GUARD / PATIENCE) -> T:
    """The first true value; for what gives no event to wait for: another process's end, a row in the store."""
    ends_at = time.monotonic() + seconds * PATIENCE
    while not (found := value()):
        assert time.monotonic() < ends_at, f"not within {seconds * PATIENCE} s"
        threading.Event().wait(_POLL_SECONDS)
    return found


def at_once(functions: Sequence[Callable[[], T]]) -> list[T]:
    """Each in a thread of its own; their results, in the order given."""
    with ThreadPoolExecutor(_MOST_AT_ONCE) as threads:
        return [future.result(HANG_GUARD) for future in [threads.submit(function) for function in functions]]


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Appliance:
    """`lines` are what it has logged so far."""

    process: subprocess.Popen[bytes]
    port: int
    state_dir: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_MOST_AT_ONCE))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_GUARD)

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
        connection = self.connect()
        try:
            connection.request(method, path, body or None, dict(headers or {}))
            answer = connection.getresponse()
            return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def manage(self, method: str, path: str, body: bytes = b"") -> Response:
        return self.request(method, path, body, {"Authorization": f"Token {ADMIN}"})

    def create(self, source: str, **query: str | int) -> str:
        """A code's id."""
        words = {"name": "an action", "project_uuid": "a-project", "language": "python", "type": "endpoint"} | query
        answer = self.manage("POST", f"/code?{urlencode(words)}", source.encode())
        assert answer.status == 201, answer
        return str(answer.json()["id"])

    def call(self, code_id: str, body: bytes = b"", method: str = "", **params: str) -> Response:
        query = f"?{urlencode(params, quote_via=quote)}" if params else ""
        return self.request(method or ("POST" if body else "GET"), f"/action/endpoint/{code_id}{query}", body)

    def calling(self, code_id: str) -> "Future[Response]":
        """A call that goes on while the test does something else."""
        return self.threads.submit(self.call, code_id)

    def run(self, source: str, body: bytes = b"", **query: str | int) -> Response:
        """Creates an action and calls it once."""
        return self.call(self.create(source, **query), body)

    def run_of(self, answer: Response) -> Any:
        return self.manage("GET", f"/coderun/{answer.headers['x-run-id']}").json()

    def runs_of(self, code_id: str) -> list[Any]:
        """Newest first."""
        return list(self.manage("GET", f"/coderun?code_id={code_id}").json())

    def logs_of(self, answer: Response) -> list[tuple[str, str]]:
        """Type and content, oldest first, of at most a page."""
        return self.logs(run_id=answer.headers["x-run-id"])

    def logs(self, **which: str) -> list[tuple[str, str]]:
        page = self.manage("GET", f"/codelog?{urlencode(which)}").json()
        return [(entry["type"], entry["content"]) for entry in reversed(page["data"])]

    def until_logged(self, code_id: str, count: int = 1) -> None:
        """Until the runs of a code have logged so much: then they are executing."""
        eventually(lambda: self.manage("GET", f"/codelog?code_id={code_id}").json()["total"] >= count)

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """What its server (not its launcher) has logged until now, of this event or all: up to a request that is made here."""
        path = f"/until-here/{uuid.uuid4()}"
        self.request("GET", path)
        eventually(lambda: any(line.get("path") == path for line in self.lines))
        return [line for line in self.lines if event in (None, line.get("event"))]

    @property
    def has_scopes(self) -> bool:
        """Whether this host puts runs into scopes."""
        [isolation] = [line for line in self.lines if line.get("event") == "isolation"]
        return "scope" not in isolation["missing"].split(", ")

    @property
    def launcher(self) -> int:
        return next(pid for pid in children(self.process.pid) if b"launch" in cmdline(pid))

    @property
    def zygote(self) -> int:
        """Python's."""
        return self.zygote_of("python")

    @property
    def sandboxes(self) -> list[int]:
        """The processes of Python's sandboxes, parked ones included."""
        return descendants(self.zygote)

    def zygote_of(self, language: str) -> int:
        return next(pid for pid in children(self.launcher) if f"engines.{language}.preload".encode() in cmdline(pid))

    @property
    def reserve(self) -> list[int]:
        """The zygote of those of Python's actions that want more of its library, where there is one."""
        return [pid for pid in children(self.launcher) if b"engines.python.more" in cmdline(pid)]

    def sandboxes_of(self, language: str) -> list[int]:
        return descendants(self.zygote_of(language))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(HANG_GUARD)


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def descendants(pid: int) -> list[int]:
    found = []
    for child in _unless_gone(children, pid):
        found += [child, *descendants(child)]
    return found


def _unless_gone(look: Callable[[int], list[int]], pid: int) -> list[int]:
    try:
        return look(pid)
    except (FileNotFoundError, ProcessLookupError):
        return []


def cmdline(pid: int) -> bytes:
    """Empty when there is no such process, or only what waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def marked(mark: str) -> list[int]:
    """The processes of the whole machine that have `mark` in their command line."""
    return [
        int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and mark.encode() in cmdline(int(path.name))
    ]


def alive(pids: Sequence[int]) -> list[int]:
    """Those that still run; a zombie doesn't, one that is dying does: its memory goes before its pidfd says so."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        return status_of(pid)["State"][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def status_of(pid: int) -> dict[str, str]:
    """/proc/<pid>/status"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


NO_GO = "/nowhere/bin/go"


def environment_of(settings: Mapping[str, object]) -> dict[str, str]:
    """Without Go unless a test names one: a new state directory would have its whole library compiled."""
    named = {"go": NO_GO} | dict(settings)
    return {"PATH": os.environ["PATH"]} | {f"FLOWS_CODE_ACTIONS_{name.upper()}": str(value) for name, value in named.items()}


# What is tested: this checkout, or the program that `make test-binary` names, the binary's.
PROGRAM: tuple[str, ...] = tuple(filter(None, [os.environ.get("CODEACTIONS_PROGRAM")])) or (
    sys.executable,
    "-P",
    "-m",
    "appliance",
)
SERVE = (*PROGRAM, "serve")
TREE = Path(PROGRAM[0]).parent if len(PROGRAM) == 1 else None
SOURCES = TREE / "_internal" if TREE else ROOT  # the folder of its packages
# The interpreter that sandboxes have, as it can be started outside of one, and its prefix.
INTERPRETER = TREE / "_internal/python/bin/python3" if TREE else Path(getattr(sys, "_base_executable", sys.executable))
INTERPRETER_HOME = TREE / "_internal/python" if TREE else Path(os.path.realpath(sys.base_prefix))


def usable_settings(state_dir: Path, settings: Mapping[str, object]) -> dict[str, object]:
    """Those of an appliance that tests can speak to, and what a test sets itself."""
    return {"admin_token": ADMIN, "port": 0, "state_dir": state_dir, "code_limiter_max_requests": 1_000_000} | dict(settings)


def refused_start(state_dir: Path, command: Sequence[str] = SERVE, **settings: str | int) -> subprocess.CompletedProcess[str]:
    """A start that is expected to end by itself."""
    named = {"port": 0, "state_dir": state_dir} | settings
    return subprocess.run(command, env=environment_of(named), capture_output=True, text=True, timeout=HANG_GUARD, check=False)


@contextmanager
def running(
    state_dir: Path,
    *,
    user: int | None = None,
    command: Sequence[str] = SERVE,
    environment: Mapping[str, str] | None = None,
    make: "Callable[[subprocess.Popen[bytes], int, Path], Appliance] | None" = None,
    **settings: str | int,
) -> Iterator[Appliance]:
    """An appliance that answers; it is killed at the end if it still runs. Settings by their lower-case names."""
    process = subprocess.Popen(
        command,
        env=environment_of(usable_settings(state_dir, settings)) | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
    )
    appliance = (make or Appliance)(process, 0, state_dir)
    ready = threading.Event()
    reader = threading.Thread(target=_read_log, args=(appliance, ready), daemon=True)
    reader.start()
    try:
        assert ready.wait(HANG_GUARD), "not ready"
        assert appliance.port, f"it ended before it was ready: {appliance.lines}"
        yield appliance
    finally:
        process.kill()
        process.wait()
        appliance.threads.shutdown()
        reader.join(HANG_GUARD)
        assert process.stderr is not None
        process.stderr.close()


def _read_log(appliance: Appliance, ready: threading.Event) -> None:
    assert appliance.process.stderr is not None
    for line in appliance.process.stderr:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"event": "text", "text": line.decode(errors="replace").rstrip()}
        appliance.lines.append(entry)
        if entry.get("event") == "ready":
            appliance.port = int(re.findall(r":(\d+)$", entry["url"])[0])
            ready.set()
    ready.set()


def swept(appliance: Appliance) -> dict[str, int]:
    """Its count of orphans, by kind."""
    text = appliance.request("GET", "/metrics", headers={"Authorization": f"Token {ADMIN}"}).body.decode()
    return {kind: int(float(value)) for kind, value in re.findall(r'(?m)^orphans_swept_total\{kind="(\w+)"\} (\S+)$', text)}
