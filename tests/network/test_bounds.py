"""How much of the host's connections a run may have, and what is left of them when it has ended."""

import subprocess
from pathlib import Path

from tests.appliance import Appliance, eventually

FLOOD = """
import errno, socket, time
from collections import Counter

def Run(engine):
    kept, answers = [], Counter()
    began = time.monotonic()
    while time.monotonic() - began < 6:
        sock = socket.socket()
        sock.settimeout(0.2)
        try:
            sock.connect(("93.184.216.34", 80))
            kept.append(sock)
            answers["connected"] += 1
        except OSError as error:
            answers[str(error)] += 1
    engine.result.set(dict(answers))
"""


def tracked(address: str = "198.18.") -> list[str]:
    listed = subprocess.run(["conntrack", "-L"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"src={address}" in line]


def test_a_run_has_at_most_128_connections_and_none_when_it_has_ended(appliance: Appliance) -> None:
    code_id = appliance.create(FLOOD)
    call = appliance.calling(code_id)
    most = 0
    while not call.done():
        most = max(most, len(tracked()))
    answer = call.result().json()
    assert 100 <= answer["connected"] <= 128
    assert most <= 128
    eventually(lambda: not tracked())


def test_a_run_that_follows_sees_no_connection_of_the_one_before(appliance: Appliance) -> None:
    source = (
        "import socket\n"
        "def Run(engine):\n"
        "    before = len(open('/proc/self/net/tcp').readlines()) + len(open('/proc/self/net/tcp6').readlines())\n"
        "    socket.create_connection(('93.184.216.34', 80), 5)\n"
        "    engine.result.set(before)\n"
    )
    code_id = appliance.create(source)
    assert [appliance.call(code_id).json() for _ in range(20)] == [2] * 20


def test_a_neighbour_connects_while_another_floods(appliance: Appliance) -> None:
    flood = appliance.calling(appliance.create(FLOOD))
    once = appliance.create("import socket\ndef Run(engine):\n    socket.create_connection(('93.184.216.34', 80), 2)\n")
    answers = [appliance.call(once) for _ in range(10)]
    assert [answer.body for answer in answers if answer.status != 200] == []
    flood.result()


def test_the_next_run_of_a_slot_has_its_connections_again(appliance: Appliance) -> None:
    code_id = appliance.create(FLOOD.replace("< 6", "< 3"))
    for _ in range(2):
        assert appliance.call(code_id).json()["connected"] >= 100


def test_sysctls_are_left_alone_while_it_runs(appliance: Appliance) -> None:
    """Forwarding is opened for the interface that leads out, and for the whole host not."""
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "0"
    assert Path("/proc/sys/net/ipv4/conf/eth0/forwarding").read_text().strip() == "1"
    assert Path("/proc/sys/net/ipv4/conf/lan0/forwarding").read_text().strip() == "0"
