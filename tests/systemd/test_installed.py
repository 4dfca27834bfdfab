"""The binary once it is installed: the steps of the proof, its doctor, and what its launcher's rights are for.

One box for all the tests, each of which leaves it as it was.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, eventually
from tests.installed import steps
from tests.installed.box import BoxInstalled, give_toolchain_cache, host_with, installed_on
from tests.installed.steps import LAUNCHER_DROP_IN, PROGRAM, STEPS, Installed, examined, refused


@pytest.fixture(scope="module")
def installed(possible_box: None, binary: Path) -> Iterator[BoxInstalled]:
    with host_with(binary, go=True) as host:
        steps.give_token(host)
        give_toolchain_cache(host)
        steps.install(host)
        with installed_on(host) as installed:
            yield installed


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[name for name, _ in STEPS])
def test_the_proof(installed: BoxInstalled, name: str, step: Callable[[Installed], str]) -> None:
    assert step(installed), name


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


def test_a_second_install_changes_nothing(installed: BoxInstalled) -> None:
    before = installed.main_pid("codeactions.service")
    assert installed.host.run(PROGRAM, "install").startswith("nothing to change")
    assert installed.main_pid("codeactions.service") == before


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
    bounds = "/etc/codeactions/launcher.toml"
    host.run("sh", "-c", f"mv {bounds} {bounds}.aside; echo 'max_memory = \"64M\"' >{bounds}")
    host.run("systemctl", "restart", "codeactions-launcher")

    def is_refused() -> bool:
        return b"max_memory" in installed.run("print('it ran')").body

    eventually(is_refused)
    host.run("mv", f"{bounds}.aside", bounds)
    host.run("systemctl", "restart", "codeactions-launcher")
    eventually(lambda: installed.run("print('it ran')").status == 200)


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
    host.run(
        "sh", "-c", f"mkdir -p {LAUNCHER_DROP_IN}; printf '{drop_in}' >{LAUNCHER_DROP_IN}/without.conf; systemctl daemon-reload"
    )
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
        host.run("sh", "-c", f"rm {LAUNCHER_DROP_IN}/without.conf; systemctl daemon-reload")
        host.run("systemctl", "stop", "codeactions.service", "codeactions-launcher.service")
        host.run("systemctl", "start", "codeactions.service")
    answer = installed.call(code_id)
    assert (answer.body, installed.run_of(answer)["extra"]["isolation"]) == (NOTHING, "full")
