"""What a hostile action tries on the appliance itself and on its neighbours, each named by what must happen."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, Appliance, running

CHANNEL = """
import glob, json, os, struct
def send(header, blob=b""):
    # The one pipe that is open for writing beside standard output and error.
    fds = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
    fd = next(fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe"))
    data = struct.pack("!II", len(header), len(blob)) + header + blob
    while data:
        data = data[os.write(fd, data):]
"""
HEALTHY = "def Run(engine):\n    engine.result.set('still here')\n"


def attack(appliance: Appliance, statement: str) -> tuple[int, str]:
    """Status of the hostile call and outcome of its run."""
    answer = appliance.run(f"{CHANNEL}\ndef Run(engine):\n    {statement}\n", timeout=5)
    return answer.status, appliance.run_of(answer)["extra"]["outcome"]


def is_unhurt(appliance: Appliance) -> bool:
    return appliance.process.poll() is None and appliance.run(HEALTHY).body == b"still here"


@pytest.mark.parametrize("end", ["\\\\u0001", ",", "x="])
def test_a_content_type_that_could_be_read_in_many_ways_is_refused_at_once(appliance: Appliance, end: str) -> None:
    """Such a text of 80 characters kept the whole server busy for years."""
    content_type = "a/b" + "; " * 80 + end
    head = f'{{"type":"result","status_code":200,"content_type":"{content_type}","headers":[]}}'
    assert attack(appliance, f"send({head.encode()!r})".replace("\\\\\\\\", "\\\\")) == (500, "error")
    assert is_unhurt(appliance)


def test_a_content_type_with_a_blank_at_its_end_is_named_to_its_author(appliance: Appliance) -> None:
    """HTTP/1.1 can't send it."""
    answer = appliance.run("def Run(engine):\n    engine.result.set('x', content_type='text/csv; ')\n")
    assert (answer.status, "content_type 'text/csv; '" in answer.json()["message"]) == (500, True)


def test_a_count_that_is_too_long_to_be_shown_is_only_a_count(appliance: Appliance) -> None:
    """It ended the server."""
    flood = "[engine.log.info('x' * 8000) for _ in range(200)]"
    statement = f"""{flood}; send(b'{{"type":"done","dropped":' + b'9' * 4300 + b'}}'); os._exit(0)"""
    assert attack(appliance, statement) == (200, "completed")
    assert is_unhurt(appliance)


HOLDER = """
import socket
def Run(engine):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\\0holder")
    listener.listen()
    engine.log.info("up")
    held = []
    while True:
        connection, _ = listener.accept()
        held.append(socket.recv_fds(connection, 1, 8))
        connection.sendall(b"x")
"""
GIVER = """
import os, socket
def Run(engine):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\\0holder")
    pipes = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
    pipes = [fd for fd in pipes if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe")]
    socket.send_fds(connection, [b"x"], pipes)
    connection.recv(1)
    engine.result.set(f"gave {len(pipes)}")
"""


def test_a_run_that_gives_its_pipes_to_another_does_not_outlive_its_own_end(appliance: Appliance) -> None:
    """A chain of such runs would hold every place for ever."""
    holder = appliance.create(HOLDER, timeout=60)
    appliance.calling(holder)
    appliance.until_logged(holder)
    began = time.monotonic()
    assert appliance.run(GIVER, timeout=5).body == b"gave 3"
    assert time.monotonic() - began < HANG_GUARD / 4
    (run,) = appliance.runs_of(holder)
    assert run["status"] == "started"
    assert appliance.manage("POST", f"/coderun/{run['id']}/cancel").status == 202


def test_a_run_that_logs_into_a_store_that_fails_ends_at_its_timeout(tmp_path: Path) -> None:
    flood = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(1)\n    while True:\n        print(1)\n"
    tmp_path.chmod(0o755)
    with running(tmp_path / "state") as appliance:
        code_id = appliance.create(flood, timeout=5)
        call = appliance.calling(code_id)
        appliance.until_logged(code_id)
        with closing(sqlite3.connect(tmp_path / "state" / "codeactions.db", isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            assert call.result().status == 408
