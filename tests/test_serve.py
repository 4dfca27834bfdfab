"""The life of the process: how it starts, whom it serves to the end, and what it leaves."""

import os
import shlex
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.degrees import DEGREES
from tests.appliance import (
    ADMIN,
    HANG_GUARD,
    ROOT,
    SERVE,
    Appliance,
    Response,
    alive,
    at_once,
    children,
    descendants,
    eventually,
    in_tmp,
    refused_start,
    running,
    status_of,
)

A_SECOND = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(1)\n    engine.result.set('in time')\n"
WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n"
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not started by root, there is no privilege to give up")


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    with running(tmp_path / "state", worker_pool_size=8) as appliance:
        yield appliance


def under_way(appliance: Appliance, source: str, count: int = 8) -> "Flights":
    """So many calls, every one of them executing, and every process that there is by then."""
    code_id = appliance.create(source)
    calls = [appliance.calling(code_id) for _ in range(count)]
    appliance.until_logged(code_id, count)
    return Flights(code_id, calls, descendants(appliance.process.pid))


class Flights:
    def __init__(self, code_id: str, calls: list, processes: list[int]) -> None:  # type: ignore[type-arg]
        self.code_id = code_id
        self.calls = calls
        self.processes = processes

    def answers(self) -> list[Response]:
        return [call.result(HANG_GUARD) for call in self.calls]


def refuses_connections(appliance: Appliance) -> bool:
    try:
        socket.create_connection(("127.0.0.1", appliance.port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def rows(state_dir: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(state_dir / "codeactions.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def outcomes(state_dir: Path) -> list[tuple[object, ...]]:
    sql = "SELECT status, extra ->> 'outcome' FROM coderuns ORDER BY status, 2"
    return rows(state_dir, sql)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_calls_end(appliance: Appliance, number: signal.Signals) -> None:
    flights = under_way(appliance, A_SECOND)
    appliance.process.send_signal(number)
    eventually(lambda: refuses_connections(appliance), 1)
    assert not any(call.done() for call in flights.calls)
    assert [(answer.status, answer.body) for answer in flights.answers()] == [(200, b"in time")] * 8
    assert appliance.process.wait(HANG_GUARD) == 0
    assert outcomes(appliance.state_dir) == [("completed", "completed")] * 8
    eventually(lambda: not alive(flights.processes), 1)


def test_a_second_signal_is_the_end(appliance: Appliance) -> None:
    flights = under_way(appliance, WAITS, 2)
    appliance.process.send_signal(signal.SIGTERM)
    eventually(lambda: refuses_connections(appliance), 1)
    assert appliance.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    eventually(lambda: not alive(flights.processes), 1)


def test_an_idle_connection_does_not_hold_up_the_end(appliance: Appliance) -> None:
    connection = appliance.connect()
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    assert appliance.stop() == 0
    connection.close()


def test_a_request_that_was_on_its_way_is_answered(appliance: Appliance) -> None:
    """From clients that had connected, or had asked before, when the server was told to stop."""
    code_id = appliance.create("print('works')")
    used, fresh = appliance.connect(), appliance.connect()
    fresh.connect()
    used.request("GET", "/healthz")
    assert used.getresponse().read()  # it was accepted after the fresh one
    appliance.process.send_signal(signal.SIGTERM)
    eventually(lambda: refuses_connections(appliance), 1)
    for connection in (used, fresh):
        connection.request("GET", f"/action/endpoint/{code_id}")
    for connection in (used, fresh):
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"works\n")
        assert connection.sock.recv(1) == b""
        connection.close()
    assert appliance.process.wait(HANG_GUARD) == 0


def test_runs_that_are_longer_than_the_drain_are_interrupted(tmp_path: Path) -> None:
    with running(tmp_path, drain_timeout=1) as appliance:
        flights = under_way(appliance, WAITS, 3)
        assert appliance.stop() == 0
        for answer in flights.answers():
            assert (answer.status, answer.json()) == (503, {"message": "the run was interrupted: the appliance is stopping"})
            assert "retry-after" not in answer.headers
        assert outcomes(tmp_path) == [("failed", "interrupted")] * 3
        eventually(lambda: not alive(flights.processes), 1)  # the parked ones end with the launcher


def test_a_waiting_run_is_interrupted_too(tmp_path: Path) -> None:
    with running(tmp_path, drain_timeout=1, worker_pool_size=1) as appliance:
        flights = under_way(appliance, WAITS, 1)
        waiting = appliance.create(A_SECOND)
        call = appliance.calling(waiting)
        eventually(lambda: appliance.runs_of(waiting))
        assert appliance.stop() == 0
        assert [answer.status for answer in (*flights.answers(), call.result())] == [503, 503]
        assert outcomes(tmp_path) == [("failed", "interrupted")] * 2


def test_a_run_goes_on_when_its_client_goes_away(appliance: Appliance) -> None:
    code_id = appliance.create(A_SECOND)
    connection = appliance.connect()
    connection.request("GET", f"/action/endpoint/{code_id}")
    appliance.until_logged(code_id)
    connection.close()
    eventually(lambda: appliance.runs_of(code_id)[0]["status"] == "completed")
    [run] = appliance.runs_of(code_id)
    assert (run["result"], run["extra"]["outcome"], run["extra"]["status_code"]) == ("in time", "completed", 200)


def test_a_run_whose_client_has_gone_is_waited_for_at_the_end(appliance: Appliance) -> None:
    code_id = appliance.create(A_SECOND)
    connection = appliance.connect()
    connection.request("GET", f"/action/endpoint/{code_id}")
    appliance.until_logged(code_id)
    connection.close()
    assert appliance.stop() == 0
    assert outcomes(appliance.state_dir) == [("completed", "completed")]


def test_no_sandbox_survives_a_kill_of_the_server(appliance: Appliance) -> None:
    flights = under_way(appliance, WAITS)
    appliance.process.kill()
    appliance.process.wait()
    eventually(lambda: not alive(flights.processes), 1)
    assert rows(appliance.state_dir, "PRAGMA integrity_check") == [("ok",)]
    assert outcomes(appliance.state_dir) == [("started", None)] * 8
    with running(appliance.state_dir) as again:
        for run in again.runs_of(flights.code_id):
            assert (run["status"], run["extra"]["outcome"]) == ("failed", "interrupted")
            assert again.logs(run_id=run["id"]) == [("info", "up")]
        assert again.run("print('as before')").body == b"as before\n"
        assert again.stop() == 0
    assert rows(appliance.state_dir, "PRAGMA integrity_check") == [("ok",)]
    assert rows(appliance.state_dir, "SELECT count(*) FROM instances") == [(1,)]


def test_the_launcher_has_ended_its_sandboxes_before_the_server_ends(tmp_path: Path) -> None:
    with running(tmp_path / "state") as appliance:
        below = descendants(appliance.launcher)
        assert alive(below)
        assert appliance.stop() == 0
        assert alive(below) == []


def test_a_stop_of_all_processes_at_once_lets_a_running_call_come_to_its_end(tmp_path: Path) -> None:
    """As systemd does it with a service."""
    with running(tmp_path / "state") as appliance:
        code_id = appliance.create(
            "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(1)\n    print('whole')\n"
        )
        call = appliance.calling(code_id)
        appliance.until_logged(code_id)
        os.kill(appliance.launcher, signal.SIGTERM)
        assert appliance.stop() == 0
        assert call.result().status == 200


def test_the_end_of_the_launcher_ends_the_server_after_its_answers(appliance: Appliance) -> None:
    flights = under_way(appliance, WAITS, 4)
    os.kill(appliance.launcher, signal.SIGKILL)
    for answer in flights.answers():
        message = "the run was interrupted: its launcher went away; it may have had effects"
        assert (answer.status, answer.json()) == (503, {"message": message})
        assert "retry-after" not in answer.headers
    assert appliance.process.wait(HANG_GUARD) == 1
    assert outcomes(appliance.state_dir) == [("failed", "interrupted")] * 4
    eventually(lambda: not alive(flights.processes), 1)
    eventually(lambda: any("LauncherGone" in str(line) and "Traceback" in str(appliance.lines) for line in appliance.lines))


def test_a_call_that_waits_when_the_launcher_ends_has_not_run(tmp_path: Path) -> None:
    with running(tmp_path, worker_pool_size=1) as appliance:
        flights = under_way(appliance, WAITS, 1)
        waiting = appliance.threads.submit(appliance.run, "print('it ran')")
        eventually(lambda: ("queued", None) in outcomes(appliance.state_dir))
        os.kill(appliance.launcher, signal.SIGKILL)
        answer = waiting.result(HANG_GUARD)
        assert (answer.status, answer.json()) == (503, {"message": "the run could not start: its launcher went away"})
        assert int(answer.headers["retry-after"]) > 0
        assert [answer.status for answer in flights.answers()] == [503]
        assert appliance.process.wait(HANG_GUARD) == 1


def test_a_new_zygote_takes_the_place_of_one_that_ended(appliance: Appliance) -> None:
    flights, first = under_way(appliance, WAITS, 2), appliance.zygote
    sandboxes = appliance.sandboxes
    os.kill(first, signal.SIGKILL)
    assert [answer.json() for answer in flights.answers()] == [{"message": "the run was killed: SIGKILL"}] * 2
    eventually(lambda: not alive(sandboxes), 1)
    assert appliance.run("print('next')").body == b"next\n"
    assert appliance.zygote != first


def test_a_call_in_the_very_moment_of_a_zygotes_end_is_answered(appliance: Appliance) -> None:
    code_id = appliance.create("print('next')")
    os.kill(appliance.zygote, signal.SIGKILL)
    statuses = {answer.status for answer in at_once([partial(appliance.call, code_id)] * 8)}
    assert statuses <= {200, 500, 503}
    assert eventually(lambda: appliance.call(code_id).status == 200)


def test_parked_sandboxes_that_were_killed_are_replaced(appliance: Appliance) -> None:
    code_id = appliance.create("print('next')")
    parked = children(appliance.zygote)
    for pid in parked:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(parked))
    assert [appliance.call(code_id).body for _ in range(12)] == [b"next\n"] * 12


def test_a_stop_leaves_nothing_behind(appliance: Appliance) -> None:
    appliance.run("print()")
    eventually(lambda: len(descendants(appliance.process.pid)) > 10)
    processes, temporary = descendants(appliance.process.pid), in_tmp()
    assert appliance.stop() == 0
    eventually(lambda: not alive(processes), 1)
    assert in_tmp() <= temporary
    assert {path.name for path in appliance.state_dir.iterdir()} <= {"builds", "codeactions.db", "lock", "admin_token", "spool"}


def test_the_log_says_when_it_has_stopped(appliance: Appliance) -> None:
    assert appliance.stop() == 0
    eventually(lambda: [line["event"] for line in appliance.lines][-2:] == ["stopping", "stopped"])


def test_a_taken_port_is_one_line(appliance: Appliance, tmp_path: Path) -> None:
    refusal = refused_start(tmp_path / "other", port=appliance.port)
    assert refusal.returncode == 1
    [line] = said(refusal)
    assert line.startswith(f"codeactions: HOST 127.0.0.1, PORT {appliance.port}: can't listen there: Address already in use")


def test_a_state_directory_has_one_owner(appliance: Appliance) -> None:
    refusal = refused_start(appliance.state_dir)
    assert refusal.returncode == 1
    [line] = said(refusal)
    assert line.startswith("codeactions: ")
    assert str(appliance.state_dir) in line


def test_full_isolation_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    refusal = refused_start(tmp_path, require_isolation="full")
    assert refusal.returncode == 1
    [line] = said(refusal)
    assert line.startswith("codeactions: REQUIRE_ISOLATION is full, and this host lacks ")
    assert {part.partition(": ")[0].partition(" (")[0] for part in line.partition(" lacks ")[2].split("; ")} <= DEGREES.keys()


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs this host")
def test_without_systemd_one_line_says_what_is_missing_and_calls_are_answered(appliance: Appliance) -> None:
    [line] = [line for line in appliance.lines if line["event"] == "isolation"]
    assert line["level"] == "warning"
    assert "scope" in line["missing"].split(", ")
    assert line["reasons"]["scope"] == "systemd doesn't run this host"
    assert appliance.run("print('works')").body == b"works\n"


def said(refusal: "subprocess.CompletedProcess[str]") -> list[str]:
    """What isn't a log entry."""
    return [line for line in refusal.stderr.splitlines() if not line.startswith("{")]


def test_the_admin_token_is_made_for_its_owner_only_and_not_logged(tmp_path: Path) -> None:
    with running(tmp_path, admin_token="") as appliance:
        file = tmp_path / "admin_token"
        token = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(token) >= 32
        code = "/code?project_uuid=p"
        assert appliance.request("GET", code, headers={"Authorization": f"Token {token}"}).status == 200
        assert appliance.request("GET", code, headers={"Authorization": f"Token {ADMIN}"}).status == 401
        assert token not in str(appliance.logged())
        assert appliance.stop() == 0
    with running(tmp_path, admin_token=""):
        assert file.read_text().strip() == token


def test_the_service_manager_hears_of_start_and_stop(public: Path) -> None:
    address = str(public / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(HANG_GUARD)
        Path(address).chmod(0o777)
        with running(public / "state", environment={"NOTIFY_SOCKET": address}) as appliance:
            assert manager.recv(4096).startswith(b"READY=1\n")
            assert appliance.stop() == 0
            assert manager.recv(4096).startswith(b"STOPPING=1\n")


def test_the_environment_is_not_handed_to_the_launcher(appliance: Appliance) -> None:
    environment = Path(f"/proc/{appliance.launcher}/environ").read_text()
    assert ADMIN in Path(f"/proc/{appliance.process.pid}/environ").read_text()
    names = {line.partition("=")[0] for line in environment.split("\0") if line}
    bootloaders = {
        name for name in names if name.startswith(("LD_LIBRARY_PATH", "_PYI_"))
    }  # a binary's launcher makes them itself
    assert names - bootloaders == {"PATH", "LANG"}


@needs_root
def test_started_by_root_the_server_is_nobody_and_the_launcher_root(appliance: Appliance) -> None:
    server, launcher = status_of(appliance.process.pid), status_of(appliance.launcher)
    assert "0" not in server["Uid"].split() + server["Gid"].split() + server["Groups"].split()
    assert {int(server[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert server["NoNewPrivs"] == "1"
    assert launcher["Uid"].split() == ["0"] * 4
    assert appliance.state_dir.stat().st_uid == int(server["Uid"].split()[0])
    assert stat.S_IMODE(appliance.state_dir.stat().st_mode) == 0o700


@needs_root
def test_a_state_directory_in_a_private_folder_of_roots_works(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(0o700)
    with running(private / "deep" / "state") as appliance:
        assert appliance.run("print('works')").body == b"works\n"
        assert appliance.stop() == 0
    assert (private / "deep" / "state" / "codeactions.db").exists()
    assert private.stat().st_uid == 0


@needs_root
def test_what_else_lies_in_the_state_directory_keeps_its_owner(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("worker_pool_size = 2\n")
    with running(tmp_path, config=str(tmp_path / "config.toml")) as appliance:
        assert appliance.run("print('works')").body == b"works\n"
    assert (tmp_path / "config.toml").stat().st_uid == 0
    assert (tmp_path / "codeactions.db").stat().st_uid == NOBODY


@needs_root
def test_a_database_that_root_has_written_to_is_given_back(tmp_path: Path) -> None:
    with running(tmp_path) as appliance:
        code_id = appliance.create("print('works')")
        assert appliance.stop() == 0
    for path in tmp_path.iterdir():
        os.chown(path, 0, 0)
    with running(tmp_path) as appliance:
        assert appliance.call(code_id).body == b"works\n"


@needs_root
def test_a_system_folder_is_never_given_away() -> None:
    """In a mount namespace of its own, where /boot is an empty file system: the host's isn't touched, whatever happens."""
    script = f"mount -t tmpfs none /boot && touch /boot/vmlinuz && exec {shlex.join(SERVE)}"
    refusal = refused_start(Path("/boot"), ["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
    assert refusal.returncode == 1
    assert said(refusal) == [
        "codeactions: STATE_DIR /boot belongs to root and holds 'vmlinuz', which isn't ours: name a folder of its own"
    ]


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that an ordinary user can enter: pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs_root
def test_an_ordinary_user_is_served_with_less_isolation(public: Path) -> None:
    with running(state_of(public), user=NOBODY, command=[program_of(public), "-P", "-m", "appliance", "serve"]) as appliance:
        answer = appliance.run(
            "import os\nprint(os.getuid(), sorted(filter(str.isdigit, os.listdir('/proc'))), os.listdir('/tmp'))"
        )
        assert answer.body == b"1000 ['2'] []\n"
        extra = appliance.run_of(answer)["extra"]
        assert (extra["isolation"], "own_uid" in extra["isolation_missing"]) == ("reduced", True)
        status = status_of(appliance.launcher)
        assert status["Uid"].split() == [str(NOBODY)] * 4
        processes = descendants(appliance.process.pid)
        assert appliance.stop() == 0
        eventually(lambda: not alive(processes), 1)


@needs_root
def test_an_ordinary_users_run_can_not_hurt_its_guard(public: Path) -> None:
    """Both have one uid there, so only what the kernel refuses for pid 1 and for a process that isn't dumpable is refused."""
    attacks = "import os\nfor number in range(1, 65):\n    try:\n        os.kill(1, number)\n    except OSError:\n        pass\n"
    attacks += """
for path, mode in (("mem", "rb"), ("mem", "wb"), ("environ", "rb"), ("maps", "rb")):
    try:
        open(f"/proc/1/{path}", mode).close()
        print("opened", path)
    except OSError:
        pass
for path in ("root/", "cwd/", "exe", "fd/3", "ns/mnt"):
    try:
        print("followed", path, os.stat(f"/proc/1/{path}"))
    except OSError:
        pass
"""
    with running(state_of(public), user=NOBODY, command=[program_of(public), "-P", "-m", "appliance", "serve"]) as appliance:
        beside = appliance.calling(appliance.create(A_SECOND))
        answer = appliance.run(attacks)
        assert (answer.status, answer.body) == (200, b"")
        assert beside.result().body == b"in time"


def state_of(public: Path) -> Path:
    state_dir = public / "state"
    state_dir.mkdir(0o700)
    os.chown(state_dir, NOBODY, NOBODY)
    return state_dir


def program_of(public: Path) -> str:
    """An interpreter with the program that an ordinary user can execute: the checkout's may lie in a private folder of root's."""
    interpreter = next((path for path in ("/usr/bin/python3.11", "/usr/bin/python3.12") if os.path.exists(path)), None)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    if interpreter is None or not interpreter.endswith(f"{sys.version_info.major}.{sys.version_info.minor}"):
        pytest.skip("NOT TESTED: an ordinary user has no interpreter here that the installed packages are for")
    if not all(path.stat().st_mode & 0o001 for path in (Path(packages), *Path(packages).parents, ROOT)):
        pytest.skip(f"NOT TESTED: an ordinary user can't enter {ROOT}")
    subprocess.run([interpreter, "-m", "venv", "--without-pip", public / "venv"], check=True)
    [site] = (public / "venv").glob("lib/python3*/site-packages")
    (site / "checkout.pth").write_text(f"{ROOT}\n{packages}\n")
    return str(public / "venv/bin/python")
