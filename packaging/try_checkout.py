#!/usr/bin/env python3
"""What a newcomer does in this checkout, checked: `make run`, an action created and called, its run and logs read, the server
stopped; as root `make binary`; then `make test`. Needs what they have: python3 and make. Arguments: --no-test leaves out the
last; the rest are make's.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The first start builds the environment: half a minute, several on a loaded machine.
START_SECONDS = 600
STOP_SECONDS = 60
SOURCE = """\
def Run(engine):
    name = engine.params.get("name", "nobody")
    engine.log.debug("called")
    engine.log.info("for " + name)
    engine.log.error("with " + (engine.body or "no body"))
    engine.result.set({"hello": name, "agent": engine.header.get("x-agent")}, status_code=201, content_type="json")
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def ask(url: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    data = None if body is None else body.encode()
    request = urllib.request.Request(url, data, {key.replace("_", "-"): value for key, value in headers.items()}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, json.load(answer), {key.lower(): value for key, value in answer.headers.items()}


def wait_until_up(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            ask(url + "/healthz")
        except OSError:
            time.sleep(0.2)
        else:
            return
    sys.exit(f"try-checkout: make run isn't answering (status {server.poll()})")


def stop(server: "subprocess.Popen[bytes]") -> None:
    """As a service manager does: the program gets the signal, and make passes its status on."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    status = server.wait(STOP_SECONDS)
    if status != 0:
        sys.exit(f"try-checkout: make run ended with {status} after SIGTERM")


def use(url: str, token: str) -> None:
    code = ask(
        f"{url}/code?name=hello&language=python&type=endpoint&project_uuid=p", "POST", SOURCE, Authorization=f"Token {token}"
    )[1]
    for method, body in (("GET", None), ("POST", "a body")):
        status, result, headers = ask(f"{url}/action/endpoint/{code['id']}?name=Ana", method, body, X_Agent="try")
        if (status, result) != (201, {"hello": "Ana", "agent": "try"}):
            sys.exit(f"try-checkout: {method}: {status} {result}")
        run = ask(f"{url}/coderun/{headers['x-run-id']}", Authorization=f"Token {token}")[1]
        logs = ask(f"{url}/codelog?run_id={run['id']}", Authorization=f"Token {token}")[1]
        print(
            f"try-checkout: {method}: run {run['status']}, isolation {run['extra'].get('isolation')}, {logs['total']} logs",
            flush=True,
        )
        if (run["status"], logs["total"]) != ("completed", 3):
            sys.exit(f"try-checkout: {run} {logs}")


def main(arguments: list[str]) -> int:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    begun = time.monotonic()
    server = subprocess.Popen(
        ["make", "--no-print-directory", "run"],
        cwd=ROOT,
        env=dict(os.environ, FLOWS_CODE_ACTIONS_PORT=str(port)),
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until_up(url, server)
        print(f"try-checkout: make run answers after {time.monotonic() - begun:.0f} s", flush=True)
        use(url, (ROOT / "var" / "admin_token").read_text().strip())
        stop(server)
    finally:
        if server.poll() is None:
            server.terminate()
    if os.geteuid() == 0:  # an ordinary user can't install what it needs
        subprocess.run(["make", "--no-print-directory", "binary"], cwd=ROOT, check=True)
    if "--no-test" in arguments:
        return 0
    return subprocess.run(["make", "--no-print-directory", "test", *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
