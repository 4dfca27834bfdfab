"""The appliance installed in a box of its own: what install leaves, what a restart and a kill cost, what uninstall leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.appliance import ADMIN, HANG_GUARD, alive, at_once, cmdline, eventually
from tests.systemd.box import Box, BoxedAppliance, booted, why_no_box

PROGRAM = str(Path(sys.executable).with_name("codeactions"))
UNITS = ["codeactions.service", "codeactions-launcher.service", "codeactions.socket", "codeactions-launcher.socket"]
PORT = 8050
WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n"
# What a host changes by itself while it runs, and what its account tools leave beside the files that they change.
UNRELATED = ("/var/log", "/var/lib/systemd", "/var/tmp", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/.pwd")
FOLDERS = ["/etc", "/usr/local", "/var", "/opt", "/root", "/srv"]


@pytest.fixture
def host() -> Iterator[Box]:
    """Fresh for each test."""
    if reason := why_no_box():
        pytest.skip(f"NOT TESTED on a real systemd: {reason}")
    with booted() as box:
        yield box


@pytest.fixture
def installed(host: Box) -> Iterator[BoxedAppliance]:
    host.run("sh", "-c", f"mkdir -p -m 700 /etc/codeactions/credentials; echo {ADMIN} > /etc/codeactions/credentials/admin_token")
    host.run(PROGRAM, "install")
    with subprocess.Popen(["true"]) as nothing:  # it is the box's to start and to stop
        appliance = BoxedAppliance(nothing, PORT, Path("/var/lib/codeactions"), box=host, unit="codeactions.service")
        yield appliance
        appliance.threads.shutdown()


def refused(host: Box, *command: str) -> str:
    done = subprocess.run(
        host.command(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=HANG_GUARD
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    return done.stderr


def listing(host: Box) -> set[str]:
    found = host.run("find", *FOLDERS, "-xdev").splitlines()
    return {path for path in found if not path.startswith(UNRELATED)}


def main_pid(host: Box, unit: str) -> int:
    """As this machine sees it."""
    processes = host.cgroup("systemd", f"codeactions.slice/{unit}") / "cgroup.procs"
    pids = [int(pid) for pid in processes.read_text().split()]
    return next(pid for pid in pids if b"zygote" not in cmdline(pid))


def test_an_action_runs_in_a_scope_with_its_limits(installed: BoxedAppliance) -> None:
    code_id = installed.create(WAITS, memory="64M")
    installed.calling(code_id)
    installed.until_logged(code_id)
    [run] = installed.runs_of(code_id)
    scope = installed.scope_of(run["id"])
    assert installed.limit(scope, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    installed.box.run("systemctl", "kill", "--signal=KILL", "codeactions-launcher.service")


def test_a_second_install_changes_nothing(installed: BoxedAppliance) -> None:
    before = installed.box.run("systemctl", "show", "--property=MainPID", "codeactions")
    assert installed.box.run(PROGRAM, "install").startswith("nothing to change")
    assert installed.box.run("systemctl", "show", "--property=MainPID", "codeactions") == before


def test_a_dry_run_changes_nothing(host: Box) -> None:
    before = listing(host)
    assert "would write /etc/systemd/system/codeactions.service" in host.run(PROGRAM, "install", "--dry-run")
    assert listing(host) == before


def test_the_units_are_clean_and_tight(installed: BoxedAppliance) -> None:
    assert installed.box.run("systemd-analyze", "verify", *UNITS, "codeactions-runs.slice") == ""
    for unit, most in (("codeactions.service", 1.5), ("codeactions-launcher.service", 5.2)):
        last = installed.box.run("systemd-analyze", "security", "--no-pager", unit).strip().splitlines()[-1]
        assert float(last.split(": ")[1].split()[0]) <= most, last


def test_a_restart_under_load_fails_no_connection(installed: BoxedAppliance) -> None:
    code_id = installed.create("print('works')")

    def client() -> set[int]:
        return {installed.call(code_id).status for _ in range(40)}

    clients = [installed.threads.submit(client) for _ in range(4)]
    installed.box.run("systemctl", "restart", "codeactions")
    assert [client.result(HANG_GUARD) for client in clients] == [{200}] * 4


def test_a_killed_launcher_interrupts_its_runs_and_the_next_one_serves(installed: BoxedAppliance) -> None:
    code_id = installed.create(WAITS)
    call = installed.calling(code_id)
    installed.until_logged(code_id)
    prefix = installed.scope_of(installed.runs_of(code_id)[0]["id"]).rpartition("-")[0]
    server = main_pid(installed.box, "codeactions.service")
    os.kill(main_pid(installed.box, "codeactions-launcher.service"), signal.SIGKILL)
    answer = call.result(HANG_GUARD)
    assert answer.status == 503
    assert installed.run_of(answer)["extra"]["outcome"] == "interrupted"
    eventually(lambda: not [name for name in installed.box.scopes() if name.startswith(prefix)], 1)
    assert installed.run("print('works')").body == b"works\n"
    assert alive([server])


def test_a_killed_server_leaves_no_run_and_comes_back(installed: BoxedAppliance) -> None:
    code_id = installed.create(WAITS)
    call = installed.calling(code_id)
    installed.until_logged(code_id)
    prefix = installed.scope_of(installed.runs_of(code_id)[0]["id"]).rpartition("-")[0]
    os.kill(main_pid(installed.box, "codeactions.service"), signal.SIGKILL)
    with pytest.raises(OSError, match=r".*"):
        call.result(HANG_GUARD)
    eventually(lambda: not [name for name in installed.box.scopes() if name.startswith(prefix)], 1)
    assert installed.run("print('works')").body == b"works\n"


def test_one_server_at_a_time_and_only_its_user(installed: BoxedAppliance) -> None:
    ask = (
        "import socket\nsock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "sock.connect('/run/codeactions/launcher.sock')\nprint(sock.recv(4096).decode())\n"
    )
    assert "one server at a time" in installed.box.run(sys.executable, "-c", ask)
    stranger = refused(installed.box, "setpriv", "--reuid=12345", "--clear-groups", "/usr/bin/python3", "-c", ask)
    assert "PermissionError" in stranger


def test_a_claim_beyond_root_s_bounds_is_refused(installed: BoxedAppliance) -> None:
    host = installed.box
    host.run("sh", "-c", "echo 'max_memory = \"64M\"' > /etc/codeactions/launcher.toml; systemctl restart codeactions-launcher")
    answers = []

    def is_refused() -> bool:
        answers.append(installed.run("print('it ran')"))
        return answers[-1].status == 503

    eventually(is_refused)
    assert "max_memory" in answers[-1].json()["message"]


def test_uninstall_keeps_what_people_wrote(installed: BoxedAppliance) -> None:
    host = installed.box
    told = host.run(PROGRAM, "uninstall")
    assert "kept /etc/codeactions, /var/lib/codeactions and the user codeactions" in told
    host.run("test", "-f", "/var/lib/codeactions/codeactions.db")
    assert host.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "codeactions*") == ""


def test_uninstall_with_purge_leaves_nothing(host: Box) -> None:
    before = listing(host)
    host.run(PROGRAM, "install")
    assert listing(host) > before
    host.run(PROGRAM, "uninstall", "--purge")
    assert listing(host) == before
    assert host.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "codeactions*") == ""
    assert "codeactions" not in host.run("getent", "passwd")


def test_a_taken_port_is_said_and_the_host_is_as_it_was(host: Box) -> None:
    taker = f"import socket, time\nsock = socket.create_server(('127.0.0.1', {PORT}))\ntime.sleep(600)\n"
    host.run("systemd-run", "--quiet", "--unit=taker", sys.executable, "-c", taker)
    eventually(lambda: str(PORT) in host.run("ss", "-ltn"))
    before = listing(host)
    assert f"PORT {PORT}: can't listen there: Address already in use; write another" in refused(host, PROGRAM, "install")
    assert listing(host) == before
    assert "codeactions" not in host.run("getent", "passwd")


def test_a_file_in_the_way_is_said_and_the_host_is_as_it_was(host: Box) -> None:
    host.run("touch", "/usr/local/bin/codeactions")
    before = listing(host)
    assert "/usr/local/bin/codeactions is there and isn't a link of ours" in refused(host, PROGRAM, "install")
    assert listing(host) == before


def test_a_service_that_does_not_start_is_said_and_the_host_is_as_it_was(host: Box) -> None:
    host.run("sh", "-c", "mkdir /etc/codeactions; echo 'require_isolation = \"full\"' > /etc/codeactions/config.toml")
    before = listing(host)
    assert "see `journalctl -u codeactions.service" in refused(host, PROGRAM, "install")
    assert listing(host) - before <= {"/var/lib/codeactions", *listing_below(host, "/var/lib/codeactions")}
    assert host.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "codeactions*") == ""


def listing_below(host: Box, folder: str) -> set[str]:
    return set(host.run("sh", "-c", f"find {folder} 2>/dev/null || true").splitlines())


@pytest.mark.parametrize("capability", ["SYS_ADMIN", "SETUID", "SETGID", "KILL", "MKNOD"])
def test_the_launcher_needs_each_capability(installed: BoxedAppliance, capability: str) -> None:
    code_id = installed.create("print('works')")
    assert installed.call(code_id).status == 200
    folder = "/etc/systemd/system/codeactions-launcher.service.d"
    host = installed.box
    host.run("sh", "-c", f"printf '[Service]\\nCapabilityBoundingSet=~CAP_{capability}\\n' > {folder}/without.conf")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "stop", "codeactions.service", "codeactions-launcher.service")
    host.run("sh", "-c", "systemctl start --no-block codeactions.service")
    eventually(lambda: at_once([partial(installed.call, code_id)])[0].status == 503)
