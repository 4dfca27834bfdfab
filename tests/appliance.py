"""A real appliance in a process of its own, for tests and for the bench: started, spoken to, stopped, and seen to leave nothing."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

ROOT = Path(__file__).resolve().parent.parent
ADMIN = "an-admin-token"
HANG_GUARD = 60.0  # seconds; a start takes about 1.5 s on a quiet machine


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

    def run_of(self, answer: Response) -> Any:
        return self.manage("GET", f"/coderun/{answer.headers['x-run-id']}").json()

    def logs_of(self, answer: Response) -> list[tuple[str, str]]:
        """Type and content, oldest first, of at most a page."""
        page = self.manage("GET", f"/codelog?run_id={answer.headers['x-run-id']}").json()
        return [(entry["type"], entry["content"]) for entry in reversed(page["data"])]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(HANG_GUARD)


@contextmanager
def running(state_dir: Path, *, user: int | None = None, **settings: str | int) -> Iterator[Appliance]:
    """An appliance that answers; it is killed at the end if it still runs. Settings by their lower-case names."""
    named = {"admin_token": ADMIN, "port": 0, "state_dir": state_dir, "code_limiter_max_requests": 1_000_000} | settings
    environment = {f"FLOWS_CODE_ACTIONS_{name.upper()}": str(value) for name, value in named.items()}
    environment["PATH"] = os.environ["PATH"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "appliance", "serve"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
    )
    appliance = Appliance(process, 0, state_dir)
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
