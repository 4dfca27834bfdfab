import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance import ROOT, SERVE, Appliance, running
from tests.network import internet

ALLOWED = "10.20.30.0/24,10.99.0.7:5432,inside.example:80"


def why_no_network() -> str:
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [tool for tool in ("ip", "nft", "nsenter", "unshare", "conntrack") if shutil.which(tool) is None]
    return f"there is no {', '.join(missing)}" if missing else ""


@pytest.fixture(scope="session")
def host() -> Iterator[None]:
    """This session's network becomes that of a host with an internet, a private neighbour and a name server."""
    if reason := why_no_network():
        pytest.skip(f"NOT TESTED, the network of runs: {reason}")
    command = ["unshare", "--net", sys.executable, "-P", "-m", internet.__name__]
    world = subprocess.Popen(command, cwd=ROOT, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, stdin=-1, stdout=-1)
    assert world.stdin is not None
    assert world.stdout is not None
    assert world.stdout.readline() == b"made\n"
    for words in (
        f"link add eth0 type veth peer name uplink netns {world.pid}",
        "address add 11.0.0.2/24 dev eth0",
        "-6 address add 2a00:1::2/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 11.0.0.1",
        "-6 route add default via 2a00:1::1",
        "link add lan0 type veth peer name lan1",
        "address add 192.168.77.1/24 dev lan0",
        "link set lan0 up",
        "link set lan1 up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    world.stdin.write(b"go\n")
    world.stdin.flush()
    assert world.stdout.readline() == b"up\n"
    yield
    world.communicate()
    subprocess.run(["ip", "link", "delete", "lan0"], check=True)


def serve_command(folder: Path) -> list[str]:
    """With a resolv.conf of the test's own."""
    resolv = folder / "resolv.conf"
    resolv.write_text(f"search nowhere.example\nnameserver {internet.NAME_SERVER}\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(resolv), *SERVE]


@pytest.fixture(scope="session")
def appliance(host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    folder = tmp_path_factory.mktemp("network")
    command = serve_command(folder)
    with running(folder / "state", command=command, network_allow=ALLOWED, worker_pool_size=4) as appliance:
        [own] = [line for line in appliance.lines if "network of" in line.get("event", "")]
        assert own["event"] == "runs have a network of their own", own
        yield appliance
        assert appliance.process.poll() is None, "it ended in the middle of the tests"
        assert appliance.stop() == 0
