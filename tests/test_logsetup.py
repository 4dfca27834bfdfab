"""The log as its readers get it: a process that logs, its stderr, and a socket in the journal's place."""

import json
import os
import pty
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from appliance.logsetup import Style, style_of
from tests.appliance import ROOT

HANG_GUARD = 60  # seconds; the process takes less than one
PROGRAM = Path(__file__).parent / "log_a_few_lines.py"


def command(level: str, style: str, journal: Path = Path("/nonexistent")) -> list[str]:
    # -P: beside the program lies tests/appliance.py.
    return [sys.executable, "-P", "-W", "default", str(PROGRAM), level, style, str(journal)]


def stderr_of(level: str, style: str, journal: Path = Path("/nonexistent")) -> str:
    done = subprocess.run(command(level, style, journal), env={}, capture_output=True, text=True, timeout=HANG_GUARD, check=True)
    assert done.stdout == ""
    return done.stderr


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.settimeout(HANG_GUARD)
        yield sock


def fields_of(entry: bytes) -> dict[str, str]:
    """Reads one entry of the journal's native protocol."""
    found = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, sign, value = line.partition(b"=")
        if not sign:
            size = int.from_bytes(entry[:8], "little")
            value, entry = entry[8 : 8 + size], entry[9 + size :]
        found[name.decode()] = value.decode()
    return found


def test_a_line_is_a_fixed_event_with_fields() -> None:
    ended = objects(stderr_of("info", "json"))[0]
    assert list(ended)[:3] == ["timestamp", "level", "event"]
    del ended["timestamp"]
    assert ended == {
        "level": "info",
        "event": "run ended",
        "outcome": "completed",
        "wall_ms": 3.5,
        "places": ["a", "b"],
        "run_id": "r-1",
        "code_id": "c-1",
    }


def test_what_is_below_the_level_is_left_out() -> None:
    assert objects(stderr_of("debug", "json"))[0]["event"] == "parked"
    assert [line["event"] for line in objects(stderr_of("error", "json"))] == ["service died"]


def test_other_libraries_end_in_the_same_log() -> None:
    slow, old = objects(stderr_of("info", "json"))[1:3]
    assert (slow["event"], slow["level"], slow["logger"]) == ("slow client", "warning", "hypercorn.error")
    assert "DeprecationWarning: old" in old["event"]


def test_an_exception_keeps_its_traceback_on_one_line() -> None:
    died = objects(stderr_of("info", "json"))[-1]
    assert died["exception"].startswith("Traceback")
    assert died["exception"].endswith("ValueError: two\nlines")


def test_a_pipe_gets_json() -> None:
    assert objects(stderr_of("info", "found"))[0]["event"] == "run ended"


def test_a_terminal_gets_lines_for_people() -> None:
    ours, terminal = pty.openpty()
    try:
        subprocess.run(command("info", "found"), env={}, stderr=terminal, timeout=HANG_GUARD, check=True)
        text = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(terminal)
    assert "run ended" in text
    assert "{" not in text.splitlines()[0]


def test_the_journal_gets_fields_of_its_own(journal: socket.socket, tmp_path: Path) -> None:
    assert stderr_of("info", "journal", tmp_path / "journal") == ""
    entry = fields_of(journal.recv(65536))
    assert entry["MESSAGE"] == 'run ended outcome=completed wall_ms=3.5 places=["a","b"] code_id=c-1 run_id=r-1'
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"], entry["EVENT"]) == ("6", "codeactions", "run ended")
    assert (entry["RUN_ID"], entry["CODE_ID"], entry["WALL_MS"]) == ("r-1", "c-1", "3.5")


def test_a_traceback_is_part_of_the_journals_message(journal: socket.socket, tmp_path: Path) -> None:
    stderr_of("error", "journal", tmp_path / "journal")
    entry = fields_of(journal.recv(65536))
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"].startswith("service died\nTraceback")


def test_without_a_journal_nothing_is_lost(tmp_path: Path) -> None:
    lines = stderr_of("info", "journal", tmp_path / "gone").splitlines()
    assert lines[0].startswith("<6>{")
    assert json.loads(lines[-1].removeprefix("<3>"))["event"] == "service died"


def test_the_journals_stream_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        about = os.fstat(stream.fileno())
        assert style_of(stream, f"{about.st_dev}:{about.st_ino}") is Style.JOURNAL
        assert style_of(stream, f"{about.st_dev}:{about.st_ino + 1}") is Style.JSON
        assert style_of(stream, "") is Style.JSON


LOOP = """
import sys, structlog, trio
from appliance import logsetup
logsetup.configure("info", logsetup.Style.JSON)
log = structlog.get_logger()
def said(what):
    print(what, flush=True)
    sys.stdin.readline()
async def main():
    log.info("first")
    said("busy")
    log.warning("second")
    said("warned")
    log.info("third")
    await trio.sleep_forever()
trio.run(main, instruments=[logsetup.Idle()])
"""


def test_what_is_only_information_waits_while_the_loop_is_busy() -> None:
    command = [sys.executable, "-P", "-c", LOOP]
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, bufsize=0, stdin=PIPE, stdout=PIPE, stderr=PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            assert child.stdout.readline() == b"busy\n"
            assert not select.select([child.stderr], [], [], 0)[0]
            child.stdin.write(b"\n")
            assert child.stdout.readline() == b"warned\n"
            assert [json.loads(child.stderr.readline())["event"] for _ in range(2)] == ["first", "second"]
            child.stdin.write(b"\n")
            assert json.loads(child.stderr.readline())["event"] == "third"
        finally:
            child.kill()
