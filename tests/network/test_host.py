"""What is on the host while a launcher runs, what others can do to it, and what is left."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from appliance.runner.launch.network.path import probe_path
from tests.appliance import Appliance, children, eventually, running, status_of
from tests.network.actions import reach
from tests.network.conftest import serve_command
from tests.network.test_reach import HOSTS_OWN, REFUSED


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def ours() -> tuple[list[str], list[str]]:
    """Tables and devices."""
    tables = [line for line in output("nft", "list", "tables").splitlines() if "codeactions" in line]
    devices = [line.split()[0].partition("@")[0] for line in output("ip", "-brief", "link").splitlines()]
    return tables, [device for device in devices if device.startswith("codeactions")]


def test_another_firewall_can_not_flush_the_table(appliance: Appliance) -> None:
    before = ours()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert subprocess.run(["nft", "delete", "table", "inet", "codeactions"], capture_output=True, check=False).returncode != 0
    assert ours() == before
    assert reach(appliance, ("11.0.0.2", appliance.port), ("93.184.216.34", 80)) == ["timeout", f"93.184.216.34 {HOSTS_OWN}"]


def test_a_table_whose_owner_was_killed_is_made_again(tmp_path: Path) -> None:
    with running(tmp_path / "state", command=serve_command(tmp_path)) as appliance:
        [owner] = [pid for pid in children(appliance.launcher) if cmdline(pid).startswith(b"nft\0-i")]
        os.kill(owner, signal.SIGKILL)
        eventually(lambda: any(line.get("event") == "the host's table is there again" for line in appliance.lines))
        assert any("the host's table is lost" in str(line) for line in appliance.lines)
        assert reach(appliance, ("11.0.0.2", appliance.port), ("93.184.216.34", 80)) == ["timeout", f"93.184.216.34 {HOSTS_OWN}"]


def test_a_second_launcher_has_a_network_beside(appliance: Appliance, tmp_path: Path) -> None:
    before = ours()
    with running(tmp_path / "state", command=serve_command(tmp_path)) as other:
        assert len(ours()[1]) == len(before[1]) + 1
        assert reach(other, ("93.184.216.34", 80), ("10.20.30.1", 80)) == [f"93.184.216.34 {HOSTS_OWN}", REFUSED]
        assert reach(appliance, ("10.20.30.1", 80)) == [f"10.20.30.1 {HOSTS_OWN}"]
        assert other.stop() == 0
    eventually(lambda: ours() == before)
    assert Path("/proc/sys/net/ipv4/conf/eth0/forwarding").read_text() == "1\n", "the first one needs it still"


def test_a_launcher_that_is_killed_leaves_no_table_and_no_device(appliance: Appliance, tmp_path: Path) -> None:
    before = ours()
    with running(tmp_path / "state", command=serve_command(tmp_path)) as other:
        os.kill(other.launcher, signal.SIGKILL)
        eventually(lambda: ours() == before)


def test_the_name_server_has_a_uid_of_its_own_and_no_privilege(appliance: Appliance) -> None:
    [pid] = [pid for pid in processes() if b"\0dns\0--udp" in cmdline(pid) and parent(pid) == appliance.launcher]
    status = status_of(pid)
    uids = {int(uid) for uid in status["Uid"].split()}
    assert len(uids) == 1
    assert min(uids) >= 1_900_000_000
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1")


def test_a_name_server_that_ends_is_started_again(appliance: Appliance) -> None:
    [pid] = [pid for pid in processes() if b"\0dns\0--udp" in cmdline(pid) and parent(pid) == appliance.launcher]
    os.kill(pid, signal.SIGKILL)
    assert reach(appliance, ("www.public.example", 80)) == [f"93.184.216.34 {HOSTS_OWN}"]


def test_a_packet_goes_through(host: None) -> None:
    assert trio.run(probe_path) is None


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("policy drop;", "ip foreign FORWARD: policy drop"),
        ('policy accept; iifname "codeactions*" drop', 'ip foreign FORWARD: rule iifname "codeactions*" drop'),
    ],
)
def test_a_foreign_rule_that_drops_is_named(host: None, rule: str, named: str) -> None:
    chain = f"table ip foreign {{ chain FORWARD {{ type filter hook forward priority 0; {rule}; }}; }}"
    subprocess.run(["nft", "-f", "-"], input=chain.encode(), check=True)
    try:
        assert trio.run(probe_path) == named
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "foreign"], check=True)


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def parent(pid: int) -> int:
    return int(status_of(pid)["PPid"])
