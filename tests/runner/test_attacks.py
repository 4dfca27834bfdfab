"""What a hostile action tries on the appliance itself and on its neighbours, each named by what must happen."""

import http.client
import os
import resource
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, PROGRAM, SERVE, Appliance, at_once, children, cmdline, eventually, running
from tests.test_serve import NOBODY, program_of, state_of

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


def test_a_run_has_no_socket_to_give_its_pipes_to_another(appliance: Appliance) -> None:
    """Who holds them keeps a call from being answered; a chain of such runs would hold every place."""
    answer = appliance.run(GIVER)
    assert answer.status == 500
    assert answer.json()["message"].startswith("OSError: ")
    assert answer.json()["message"].endswith(" (line 4)")


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


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_clients_that_take_all_descriptors_cost_calls_and_not_the_server(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    serve = ("sh", "-c", f"ulimit -n 128; exec {shlex.join(SERVE)}")
    with running(tmp_path / "state", command=serve) as appliance, ExitStack() as connections:
        code_id = appliance.create(HEALTHY)
        call = f"GET /action/endpoint/{code_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        address = ("127.0.0.1", appliance.port)
        first, *_ = [connections.enter_context(socket.create_connection(address, HANG_GUARD)) for _ in range(130)]
        eventually(lambda: open_files(appliance.process.pid) == 128)
        first.sendall(call)
        assert first.recv(100).startswith(b"HTTP/1.1 503 ")
        connections.close()
        assert appliance.call(code_id).body == b"still here"
        [line] = [line for line in appliance.logged() if line.get("logger") == "trio.serve_listeners"]
        assert line["event"].startswith("accept returned EMFILE (Too many open files)")
        assert "exception" not in line
        assert not [line for line in appliance.lines if "Traceback" in str(line)]


def test_a_launcher_without_free_descriptors_refuses_and_recovers(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with running(tmp_path / "state") as appliance:
        code_id = appliance.create(HEALTHY)
        before = resource.prlimit(appliance.launcher, resource.RLIMIT_NOFILE)
        resource.prlimit(appliance.launcher, resource.RLIMIT_NOFILE, (8, before[1]))
        answers = [appliance.call(code_id) for _ in range(8)]
        assert {answer.status for answer in answers} == {200, 503}
        assert "Too many open files" in answers[-1].json()["message"]
        resource.prlimit(appliance.launcher, resource.RLIMIT_NOFILE, before)
        eventually(lambda: appliance.call(code_id).status == 200)


def test_a_server_that_lacks_a_descriptor_for_a_run_refuses_it_and_recovers(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    serve = ("sh", "-c", f"ulimit -n 128; exec {shlex.join(SERVE)}")
    with (
        running(tmp_path / "state", command=serve) as appliance,
        ExitStack() as others,
        closing(appliance.connect()) as connection,
    ):
        code_id, pid, address = appliance.create(HEALTHY), appliance.process.pid, ("127.0.0.1", appliance.port)
        assert called(connection, code_id) == (200, "still here")
        for free, reason in (
            (4, "the run could not start: the server could not open its output: Too many open files"),
            (2, "too many open files"),
        ):
            while open_files(pid) < 128 - free:
                others.enter_context(accepted(address, pid))
            status, text = called(connection, code_id)
            assert status == 503
            assert reason in text
        others.close()
        eventually(lambda: called(connection, code_id) == (200, "still here"))


def accepted(address: tuple[str, int], pid: int) -> socket.socket:
    used = open_files(pid)
    connection = socket.create_connection(address, HANG_GUARD)
    eventually(lambda: open_files(pid) > used)
    return connection


def called(connection: http.client.HTTPConnection, code_id: str) -> tuple[int, str]:
    connection.request("GET", f"/action/endpoint/{code_id}")
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_descriptors_on_their_way_do_not_keep_others_from_starting(appliance: Appliance) -> None:
    """An ordinary user's sandboxes share his count of them with his launcher."""
    program = """
    pairs = [socket.socketpair() for _ in range(8)]
    try:
        for pair in pairs:
            socket.send_fds(pair[0], [b"x"], [0] * 250)
    except OSError as error:
        engine.log.info(error)
    engine.log.info("up")
    time.sleep(60)
"""
    flood = appliance.create(f"import socket, time\ndef Run(engine):{program}", timeout=60)
    appliance.calling(flood)
    appliance.until_logged(flood)
    healthy = appliance.create(HEALTHY)
    assert {answer.status for answer in at_once([lambda: appliance.call(healthy)] * 16)} == {200}
    (run,) = appliance.runs_of(flood)
    assert appliance.manage("POST", f"/coderun/{run['id']}/cancel").status == 202


KEYS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
ADD, KEYCTL = (217, 219) if os.uname().machine == "aarch64" else (248, 250)
def name_of(result):
    return "it worked" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def find(keyring, name):
    return name_of(libc.syscall(KEYCTL, 10, keyring, b"user", name, 0))
def add(keyring, name):
    return name_of(libc.syscall(ADD, b"user", name, b"x", 1, keyring))
"""


def test_two_runs_in_a_row_do_not_see_each_others_keys(appliance: Appliance) -> None:
    """The kernel keeps the keyrings of a uid when its last process has ended."""
    look = "seen = [(find(ring, b'left'), add(ring, b'left'), find(ring, b'left')) for ring in (-3, -4, -5)]"
    code_id = appliance.create(f"{KEYS}\ndef Run(engine):\n    {look}\n    engine.result.set(seen)\n")
    answers = [appliance.call(code_id).json() for _ in range(12)]
    assert answers[0] in ([["EPERM"] * 3] * 3, [["ENOSYS"] * 3] * 3)
    assert answers == [answers[0]] * 12


def test_runs_leave_no_keyrings_of_their_uids(appliance: Appliance) -> None:
    """The kernel looks through all that there are whenever one goes."""

    def owners() -> set[str]:
        return {line.split(":")[0] for line in Path("/proc/key-users").read_text().splitlines()}

    before = owners()
    assert appliance.run(HEALTHY).status == 200
    assert owners() <= before


def test_the_keys_of_the_session_that_started_the_appliance_are_not_its_to_use(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    start = f"{KEYS}\nlibc.syscall(KEYCTL, 1, None)\nassert add(-3, b'theirs') in ('it worked', 'ENOSYS')\n"
    start += f"os.execv({SERVE[0]!r}, {SERVE!r})"
    with running(tmp_path / "state", command=(sys.executable, "-c", start)) as appliance:
        answer = appliance.run(f"{KEYS}\ndef Run(engine):\n    engine.result.set(find(-3, b'theirs'))\n")
        assert answer.body in (b"EPERM", b"ENOSYS")


def test_a_user_namespace_of_its_own_shows_it_no_more_of_the_host(appliance: Appliance) -> None:
    """A whole /proc has the kernel's command line, its keys, its memory's figures."""
    program = """
    seen = []
    if libc.unshare(0x10000000 | 0x20000 | 0x20000000) == 0:
        if (pid := os.fork()) == 0:
            seen.append(name_of(libc.mount(b"proc", b"/tmp", b"proc", 0xE, None)))
            engine.log.info([seen, os.path.exists("/tmp/meminfo")])
            os._exit(0)
        os.waitpid(pid, 0)
    engine.log.info("tried")
"""
    answer = appliance.run(f"{KEYS}\ndef Run(engine):{program}")
    assert appliance.logs_of(answer) in ([("info", "[['EPERM'], False]"), ("info", "tried")], [("info", "tried")])


def test_a_crash_starts_no_program_of_the_host(appliance: Appliance) -> None:
    """Where cores are piped to a program, the kernel starts it as root, outside of any sandbox, unless the limit is 1."""
    answer = appliance.run("import resource\ndef Run(engine):\n    engine.result.set(resource.getrlimit(resource.RLIMIT_CORE))\n")
    assert answer.json() == [1, 1]


@pytest.fixture
def of_an_ordinary_user() -> Iterator[Appliance]:
    if os.geteuid() != 0:
        pytest.skip("needs root to become an ordinary user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = [program_of(Path(folder)), "-P", "-m", "appliance", "serve"]
        with running(state_of(Path(folder)), user=NOBODY, command=command) as appliance:
            yield appliance


def test_an_ordinary_users_run_makes_no_namespaces(of_an_ordinary_user: Appliance) -> None:
    """They count as the user's, who may have some thousands: a tenant that holds them all keeps every other run from starting."""
    attempts = "[name_of(libc.unshare(kind)) for kind in (0x10000000, 0x20000, 0x20000000, 0x10020000)]"
    answer = of_an_ordinary_user.run(f"{KEYS}\ndef Run(engine):\n    engine.result.set({attempts})\n")
    assert answer.json() == ["EPERM"] * 4


def test_a_fork_that_the_kernel_refuses_ends_no_run_that_goes_on(of_an_ordinary_user: Appliance) -> None:
    appliance = of_an_ordinary_user
    waiting = appliance.create("import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(3)\n")
    call = appliance.calling(waiting)
    appliance.until_logged(waiting)
    limit = ["prlimit", f"--pid={appliance.zygote}", "--nproc=1:1"]
    subprocess.run(limit, user=NOBODY, group=NOBODY, extra_groups=[], check=True)
    healthy = appliance.create(HEALTHY)
    answers = at_once([lambda: appliance.call(healthy)] * 8)
    assert {answer.status for answer in answers} <= {200, 503}
    assert call.result().status == 200
    eventually(lambda: appliance.call(healthy).status == 200)
    eventually(lambda: any("fork: " in str(line.get("reason")) for line in appliance.lines))


def test_the_end_of_its_launcher_interrupts_a_local_run(tmp_path: Path) -> None:
    file = tmp_path / "action.py"
    file.write_text("import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n")
    command = [*PROGRAM, "run", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert next(process.stderr) == "info  up\n"
        (launcher,) = [pid for pid in children(process.pid) if b"launch" in cmdline(pid)]
        os.kill(launcher, signal.SIGKILL)
        assert [line.partition(":")[0] for line in process.stderr] == ["interrupted"]
        assert process.wait() == 1
