"""The binary installed in a box of its own: the steps of the proof, and what install and uninstall do with what is in the way."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, eventually
from tests.installed import steps
from tests.installed.box import BoxHost, BoxInstalled, host_with, installed_on
from tests.installed.steps import PORT, PROGRAM, STEPS, Installed, listing
from tests.systemd.box import why_no_box

CHECKOUT = str(Path(sys.executable).with_name("codeactions"))
DROP_IN = "/etc/systemd/system/codeactions-launcher.service.d"


@pytest.fixture(scope="module", autouse=True)
def _box_is_possible() -> None:
    if reason := why_no_box():
        pytest.skip(f"NOT TESTED on a real systemd: {reason}")


@pytest.fixture
def host(binary: Path) -> Iterator[BoxHost]:
    """Fresh for each test."""
    with host_with(binary) as host:
        yield host


@pytest.fixture(scope="module")
def installed(binary: Path) -> Iterator[BoxInstalled]:
    """One for all the tests that leave it as it was."""
    with host_with(binary, go=True) as host:
        steps.give_token(host)
        steps.install(host)
        with installed_on(host) as installed:
            yield installed


def refused(host: BoxHost, *command: str) -> str:
    status, told = host.status(*command)
    assert status == 1, told
    return told


def units(host: BoxHost) -> str:
    return host.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "codeactions*")


def is_as_before(host: BoxHost, before: set[str]) -> bool:
    """But for the program, which has unpacked itself when it was started."""
    left = {path for path in listing(host) - before if not path.startswith("/usr/local/lib/codeactions")}
    assert left == set()
    assert units(host) == ""
    return "codeactions" not in host.run("getent", "passwd")


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[name for name, _ in STEPS])
def test_the_proof(installed: BoxInstalled, name: str, step: Callable[[Installed], str]) -> None:
    assert step(installed), name


def examined(host: BoxHost, *environment: str) -> dict[str, dict[str, str]]:
    """The doctor's findings about the host, and that it failed exactly where one of them did."""
    status, told = host.status("env", *environment, "codeactions", "doctor", "--json")
    report = json.loads(told)
    assert status == (0 if report["passed"] else 1)
    return {one["name"]: one for one in report["host"]}


def test_the_doctor_looks_at_the_installed_host(installed: BoxInstalled) -> None:
    found = examined(installed.host)
    assert {one["verdict"] for one in found.values()} <= {"ok", "reduced"}
    named = {"codeactions.service", "codeactions.socket", "codeactions-runs.slice", "cgroup controllers", "clock"}
    assert named < found.keys()
    limits = [one["happened"] for name, one in found.items() if name.endswith(" of a run")]
    assert limits == [str(71 << 20), "24", "37000"]


def test_the_doctor_names_what_is_wrong_with_the_host(installed: BoxInstalled) -> None:
    host = installed.host
    host.run("nft", "add table ip foreign; add chain ip foreign out { type filter hook forward priority 5; policy drop; }")
    host.run("ip", "address", "add", "198.18.77.1/32", "dev", "eth0")
    host.run("systemctl", "disable", "codeactions.socket")
    try:
        found = examined(host, "FLOWS_CODE_ACTIONS_MIN_FREE_DISK=1000T", "FLOWS_CODE_ACTIONS_PORT=8051")
    finally:
        host.run("systemctl", "enable", "codeactions.socket")
        host.run("ip", "address", "delete", "198.18.77.1/32", "dev", "eth0")
        host.run("nft", "delete table ip foreign")
    failed = {name: one for name, one in found.items() if one["verdict"] == "FAILED"}
    assert failed["a run's packet to the internet"]["happened"] == "dropped by ip foreign out: policy drop"
    assert failed["addresses of 198.18.0.0/15"]["happened"] == "the host uses 198.18.77.1/32"
    assert failed["codeactions.socket"]["happened"] == "active, disabled"
    assert failed["port 8051 of 127.0.0.1"]["happened"] == "systemd holds 127.0.0.1:8050"
    assert len(failed) == 5
    assert all(one["remedy"] for one in failed.values())


def test_install_on_a_host_that_the_doctor_isn_t_content_with_is_taken_back(host: BoxHost) -> None:
    host.run("ip", "address", "add", "198.18.77.1/32", "dev", "eth0")
    before = listing(host)
    told = refused(host, PROGRAM, "install")
    assert "`codeactions doctor` isn't content: addresses of 198.18.0.0/15: the host uses 198.18.77.1/32; to do: give" in told
    assert is_as_before(host, before)


def test_install_says_what_the_host_lacks_and_goes_on(host: BoxHost) -> None:
    host.run("mount", "--bind", "/dev/null", "/usr/sbin/nft")
    told = host.run(PROGRAM, "install")
    assert "warning: no network_filter: a run with network internet reaches all that this host reaches" in told
    assert "is ready at http://127.0.0.1:8050" in told


def test_a_second_install_changes_nothing(installed: BoxInstalled) -> None:
    before = installed.main_pid("codeactions.service")
    assert installed.host.run(PROGRAM, "install").startswith("nothing to change")
    assert installed.main_pid("codeactions.service") == before


def test_a_dry_run_changes_nothing(host: BoxHost) -> None:
    host.run(PROGRAM, "version")
    before = listing(host)
    assert "would write /etc/systemd/system/codeactions.service" in host.run(PROGRAM, "install", "--dry-run")
    assert listing(host) == before


def test_without_a_start_it_is_prepared_for_a_boot(host: BoxHost) -> None:
    assert "will be at http://127.0.0.1:8050" in host.run(PROGRAM, "install", "--no-start", "--prefix", "/opt/there")
    assert host.run("systemctl", "list-units", "--state=active", "--no-legend", "--plain", "codeactions*") == ""
    assert host.run("readlink", "/opt/there/bin/codeactions").strip() == "/opt/there/lib/codeactions/current/codeactions"
    host.run("systemctl", "daemon-reload")
    assert host.run("systemctl", "is-enabled", "codeactions.service", "codeactions.socket") == "enabled\nenabled\n"


def test_one_server_at_a_time_and_only_its_user(installed: BoxInstalled) -> None:
    ask = (
        "import socket\nsock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "sock.connect('/run/codeactions/launcher.sock')\nprint(sock.recv(4096).decode())\n"
    )
    assert "one server at a time" in installed.host.run("/usr/bin/python3", "-c", ask)
    stranger = refused(installed.host, "setpriv", "--reuid=12345", "--clear-groups", "/usr/bin/python3", "-c", ask)
    assert "PermissionError" in stranger


def test_a_claim_beyond_root_s_bounds_is_refused(installed: BoxInstalled) -> None:
    host = installed.host
    host.run("sh", "-c", "mv /etc/codeactions/launcher.toml /root/; echo 'max_memory = \"64M\"' >/etc/codeactions/launcher.toml")
    host.run("systemctl", "restart", "codeactions-launcher")

    def is_refused() -> bool:
        return b"max_memory" in installed.run("print('it ran')").body

    eventually(is_refused)
    host.run("mv", "/root/launcher.toml", "/etc/codeactions/")
    host.run("systemctl", "restart", "codeactions-launcher")
    eventually(lambda: installed.run("print('it ran')").status == 200)


def test_a_change_of_the_configuration_survives_an_upgrade_from_another_version(host: BoxHost) -> None:
    """The checkout is another version than the binary; both are there afterwards."""
    steps.give_token(host)
    host.run(CHECKOUT, "install")
    host.run("sh", "-c", "echo 'worker_pool_size = 3' >/etc/codeactions/config.toml")
    with installed_on(host) as installed:
        code_id = installed.create("print('works')")
        told = host.run(PROGRAM, "install")
        assert "link /usr/local/lib/codeactions/current to" in told
        assert installed.call(code_id).body == b"works\n"
    assert host.run("cat", "/etc/codeactions/config.toml") == "worker_pool_size = 3\n"
    assert len(host.run("sh", "-c", "ls -d /usr/local/lib/codeactions/0.*").split()) == 2
    assert host.status("test", "-e", f"{DROP_IN}/checkout.conf")[0] == 1


def test_an_upgrade_that_fails_leaves_the_version_before_running(host: BoxHost) -> None:
    steps.give_token(host)
    host.run(CHECKOUT, "install")
    before = host.run("readlink", "/usr/local/lib/codeactions/current")
    host.run("ip", "address", "add", "198.18.77.1/32", "dev", "eth0")
    assert "`codeactions doctor` isn't content" in refused(host, PROGRAM, "install")
    assert host.run("readlink", "/usr/local/lib/codeactions/current") == before
    assert host.status("test", "-e", f"{DROP_IN}/checkout.conf")[0] == 0
    with installed_on(host) as installed:
        assert installed.run("print('works')").body == b"works\n"


def of_systemd(host: BoxHost, port: int) -> bool:
    return '"systemd"' in host.run("ss", "--listening", "--tcp", "--processes", "--numeric", "sport", "=", f":{port}")


@pytest.mark.parametrize("state", ["start", "stop"])
def test_another_port_is_systemd_s_after_an_install(host: BoxHost, state: str) -> None:
    host.run(PROGRAM, "install")
    host.run("systemctl", state, "codeactions.service")
    host.run("sh", "-c", "echo 'port = 9000' >/etc/codeactions/config.toml")
    assert "stop codeactions.service codeactions.socket" in host.run(PROGRAM, "install")
    assert of_systemd(host, 9000)
    assert examined(host)["port 9000 of 127.0.0.1"]["verdict"] == "ok"


def test_a_port_that_systemd_has_closed_is_found_and_opened_again(host: BoxHost) -> None:
    """Which it does when a socket's file is changed while it runs."""
    host.run(PROGRAM, "install")
    host.run("sh", "-c", "echo 'port = 9000' >/etc/codeactions/config.toml")
    host.run("sed", "-i", "s/:8050/:9000/", "/etc/systemd/system/codeactions.socket")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "codeactions.service")
    assert not of_systemd(host, 9000)
    assert examined(host)["port 9000 of 127.0.0.1"]["happened"] == "systemd has closed it"
    host.run(PROGRAM, "install")
    assert of_systemd(host, 9000)


def test_uninstall_keeps_what_people_wrote(host: BoxHost) -> None:
    host.run(PROGRAM, "install")
    assert "kept /etc/codeactions, /var/lib/codeactions and the user codeactions" in host.run(PROGRAM, "uninstall")
    host.run("test", "-f", "/var/lib/codeactions/codeactions.db")
    assert units(host) == ""


def test_uninstall_with_purge_leaves_nothing_even_of_killed_processes(host: BoxHost) -> None:
    before = listing(host)
    forwards = host.run("sh", "-c", "cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/all/forwarding")
    host.run(PROGRAM, "install")
    assert listing(host) > before
    host.run("systemctl", "kill", "--signal=KILL", "codeactions-launcher.service", "codeactions.service")
    assert steps.uninstall(host, before)
    assert host.run("sh", "-c", "cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/all/forwarding") == forwards


def test_a_taken_port_is_said_and_the_host_is_as_it_was(host: BoxHost) -> None:
    taker = f"import socket, time\nsock = socket.create_server(('127.0.0.1', {PORT}))\ntime.sleep(600)\n"
    host.run("systemd-run", "--quiet", "--unit=taker", "/usr/bin/python3", "-c", taker)
    eventually(lambda: str(PORT) in host.run("ss", "-ltn"))
    before = listing(host)
    assert f"PORT {PORT}: can't listen there: Address already in use; write another" in refused(host, PROGRAM, "install")
    assert is_as_before(host, before)


def test_without_systemd_it_says_what_works_and_changes_nothing(host: BoxHost) -> None:
    before = listing(host)
    told = refused(host, "unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /run && exec {PROGRAM} install")
    assert "systemd doesn't run this host: `codeactions serve` works without" in told
    assert is_as_before(host, before)


def test_a_somebody_of_its_user_s_name_is_left_alone(host: BoxHost) -> None:
    host.run("useradd", "--uid", "4321", "codeactions")
    before = listing(host)
    assert "the user codeactions is somebody's (uid 4321)" in refused(host, PROGRAM, "install")
    host.run(PROGRAM, "uninstall", "--purge")
    assert host.run("id", "-u", "codeactions") == "4321\n"
    assert listing(host) == before


def test_a_full_disk_is_said_and_the_host_is_as_it_was(host: BoxHost) -> None:
    host.run("sh", "-c", "mkdir /opt/small && mount -t tmpfs -o size=8m tmpfs /opt/small")
    before = listing(host)
    told = refused(host, PROGRAM, "install", "--prefix", "/opt/small")
    assert "can't be made: No space left on device; is its file system full?" in told
    assert len(told) < 400
    assert is_as_before(host, before)
    assert host.run("find", "/opt/small", "-type", "f") == ""


def test_a_file_in_the_way_is_said_and_the_host_is_as_it_was(host: BoxHost) -> None:
    host.run("touch", "/usr/local/bin/codeactions")
    before = listing(host)
    assert "/usr/local/bin/codeactions is there and isn't a link of ours" in refused(host, PROGRAM, "install")
    assert is_as_before(host, before)


def test_the_program_s_own_file_makes_way_for_the_link(host: BoxHost) -> None:
    host.run("mv", PROGRAM, "/usr/local/bin/codeactions")
    host.run("codeactions", "version")
    before = listing(host)
    host.run("sh", "-c", "mkdir /etc/codeactions; echo 'keeps = 4' >/etc/codeactions/launcher.toml")
    assert "what was done before is taken back" in refused(host, "codeactions", "install")
    host.run("rm", "-r", "/etc/codeactions")
    assert is_as_before(host, before)
    assert "move /usr/local/bin/codeactions to /usr/local/lib/codeactions/0." in host.run("codeactions", "install")
    assert host.run("codeactions", "install").startswith("nothing to change")
    assert host.run("readlink", "/usr/local/bin/codeactions").strip() == "/usr/local/lib/codeactions/current/codeactions"


def test_a_folder_that_others_can_write_is_no_place_for_it(host: BoxHost) -> None:
    host.run("sh", "-c", "mkdir -p /opt/open/lib && chmod g+w /opt/open/lib")
    before = listing(host)
    told = refused(host, PROGRAM, "install", "--prefix", "/opt/open")
    assert "others than root can write /opt/open/lib: `chmod go-w /opt/open/lib`, or install with --prefix" in told
    assert is_as_before(host, before)


def test_a_service_that_does_not_start_says_why_and_the_host_is_as_it_was(host: BoxHost) -> None:
    host.run("sh", "-c", "mkdir /etc/codeactions; echo 'require_isolation = \"full\"' >/etc/codeactions/config.toml")
    host.run("mount", "--bind", "/dev/null", "/usr/sbin/nft")
    before = listing(host)
    told = refused(host, PROGRAM, "install")
    assert "codeactions.service said last: codeactions: REQUIRE_ISOLATION is full, and this host lacks network_filter" in told
    assert "see `journalctl -u codeactions.service" in told
    assert is_as_before(host, before)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("echo 'keeps = 4' >/etc/codeactions/launcher.toml", "launcher.toml: keeps is no key of this file; it takes max_memory"),
        ("echo 'node' >/etc/codeactions/launcher.toml", "/etc/codeactions/launcher.toml can't be read: Expected '='"),
        ("mkdir -p DROP_IN; printf '[Service]\\nExecStartPre=/bin/false\\n' >DROP_IN/broken.conf", "status=1/FAILURE"),
    ],
)
def test_a_launcher_that_can_t_start_is_not_waited_for(host: BoxHost, broken: str, reason: str) -> None:
    """The server would wait for it, for two minutes; the host is as it was."""
    host.run("sh", "-c", f"mkdir /etc/codeactions; {broken.replace('DROP_IN', DROP_IN)}")
    before = listing(host)
    began = time.monotonic()
    told = refused(host, PROGRAM, "install")
    assert time.monotonic() - began < HANG_GUARD
    assert "codeactions-launcher.service fails again and again (2 restarts)" in told
    assert "codeactions-launcher.service said last: " in told
    assert reason in told
    assert is_as_before(host, before)


def test_an_upgrade_whose_launcher_can_t_start_leaves_the_version_before(host: BoxHost) -> None:
    host.run(CHECKOUT, "install")
    before = host.run("readlink", "/usr/local/lib/codeactions/current")
    host.run("sh", "-c", "echo 'keeps = 4' >/etc/codeactions/launcher.toml")
    assert "launcher.toml: keeps is no key of this file" in refused(host, PROGRAM, "install")
    assert host.run("readlink", "/usr/local/lib/codeactions/current") == before


LAUNCHER = "codeactions-launcher.service"
MAY_HAVE = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('CapBnd')))"
NOTHING = b"0000000000000000\n"
CAPABILITIES = ["SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "KILL", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE"]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_launcher_needs_each_capability(installed: BoxInstalled, capability: str) -> None:
    """Without it no run starts, or each of them says that its isolation is less, or it might have had capabilities again."""
    host = installed.host
    code_id = installed.create(MAY_HAVE)
    drop_in = f"[Service]\\nCapabilityBoundingSet=~CAP_{capability}\\n"
    host.run("sh", "-c", f"mkdir -p {DROP_IN}; printf '{drop_in}' >{DROP_IN}/without.conf; systemctl daemon-reload")
    host.run("systemctl", "stop", "codeactions.service", "codeactions-launcher.service")
    host.run("systemctl", "start", "--no-block", "codeactions.service")
    try:
        answer = installed.threads.submit(installed.call, code_id).result(HANG_GUARD)
        is_less = answer.status == 503 or installed.run_of(answer)["extra"]["isolation"] == "reduced"
        if capability == "KILL":  # it fails when a run has ended and what is left of it is killed, after the answer
            eventually(
                lambda: "signal.pidfd_send_signal" in host.run("journalctl", "--output=cat", "--lines=200", f"--unit={LAUNCHER}")
            )
        else:
            assert is_less or answer.body != NOTHING
    finally:
        host.run("sh", "-c", f"rm {DROP_IN}/without.conf; systemctl daemon-reload")
        host.run("systemctl", "stop", "codeactions.service", "codeactions-launcher.service")
        host.run("systemctl", "start", "codeactions.service")
    answer = installed.call(code_id)
    assert (answer.body, installed.run_of(answer)["extra"]["isolation"]) == (NOTHING, "full")
