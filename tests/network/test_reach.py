"""What a run reaches, and what it doesn't: by packets, against an internet where every address answers."""

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.appliance import HANG_GUARD, Appliance, eventually
from tests.network.actions import reach

HOSTS_OWN = "11.0.0.2"
REFUSED = "EHOSTUNREACH"

CLOSED = {
    "this network": "0.1.2.3",
    "private, 10": "10.1.2.3",
    "carriers' NAT": "100.64.1.2",
    "a cloud's metadata in carriers' NAT": "100.100.100.200",
    "metadata": "169.254.169.254",
    "link-local": "169.254.1.1",
    "private, 172.16": "172.16.0.1",
    "private, 172.31": "172.31.255.254",
    "protocol assignments": "192.0.0.8",
    "documentation 1": "192.0.2.1",
    "6to4 relay": "192.88.99.1",
    "private, 192.168": "192.168.1.1",
    "benchmarks": "198.19.255.1",
    "documentation 2": "198.51.100.7",
    "documentation 3": "203.0.113.7",
    "reserved": "240.0.0.1",
    "nearly broadcast": "255.255.255.254",
}
CLOSED_V6 = {
    "v4-compatible": "::10.0.0.1",
    "NAT64 of a private address": "64:ff9b::10.0.0.1",
    "NAT64, local use": "64:ff9b:1::10.0.0.1",
    "discard": "100::1",
    "Teredo": "2001::1",
    "benchmarks": "2001:2::1",
    "ORCHID": "2001:20::1",
    "documentation": "2001:db8::1",
    "6to4 of a private address": "2002:a00:1::1",
    "documentation, new": "3fff::1",
    "unique local": "fd00::1",
    "a cloud's metadata": "fd00:ec2::254",
    "site-local": "fec0::1",
    "not assigned": "4000::1",
}
# What never leaves the run's own namespace: the kernel refuses it there.
UNROUTED = {
    "unspecified": "0.0.0.0",
    "loopback": "127.0.0.1",
    "more loopback": "127.8.8.8",
    "multicast": "224.0.0.251",
    "broadcast": "255.255.255.255",
    "v6 unspecified": "::",
    "v6 loopback": "::1",
    "v6 link-local": "fe80::1",
    "v6 multicast": "ff02::1",
    "v4-mapped loopback": "::ffff:127.0.0.1",
}


def test_a_public_address_is_reached_from_the_hosts_own(appliance: Appliance) -> None:
    assert reach(appliance, ("93.184.216.34", 80)) == [f"93.184.216.34 {HOSTS_OWN}"]


def test_a_public_ipv6_address_is_reached(appliance: Appliance) -> None:
    assert reach(appliance, ("2a00:2::80", 80)) == ["2a00:2::80 2a00:1::2"]


@pytest.mark.parametrize("addresses", [CLOSED, CLOSED_V6], ids=["IPv4", "IPv6"])
def test_addresses_that_are_not_public_are_refused(appliance: Appliance, addresses: dict[str, str]) -> None:
    answers = reach(appliance, *((address, 80) for address in addresses.values()))
    allowed_errors = {REFUSED, "EACCES", "ENETUNREACH"}
    assert {name: answer for name, answer in zip(addresses, answers, strict=True) if answer not in allowed_errors} == {}


def test_a_v4_mapped_private_address_is_refused(appliance: Appliance) -> None:
    assert reach(appliance, ("::ffff:10.1.2.3", 80), ("::ffff:93.184.216.34", 80)) == [REFUSED, f"93.184.216.34 {HOSTS_OWN}"]


def test_what_is_not_routed_is_nobody(appliance: Appliance) -> None:
    answers = reach(appliance, *((address, 80) for address in UNROUTED.values()))
    assert not [answer for answer in answers if " " in answer or answer in ("connected", "timeout")], answers


def test_outside_of_the_cage_each_of_them_answers(host: None) -> None:
    """The control: it is the filter that refuses them."""
    silent = []
    for address in (*CLOSED.values(), *CLOSED_V6.values()):
        if address in ("0.1.2.3", "::10.0.0.1"):
            continue  # a host's kernel doesn't route them either
        try:
            socket.create_connection((address, 80), 5).close()
        except OSError as error:
            silent.append((address, str(error)))
    assert silent == []


def test_mail_goes_by_submission_only(appliance: Appliance) -> None:
    assert reach(appliance, ("93.184.216.34", 25), ("93.184.216.34", 587)) == [REFUSED, f"93.184.216.34 {HOSTS_OWN}"]
    socket.create_connection(("93.184.216.34", 25), 5).close()  # the control


def test_no_address_of_the_host_is_reached(appliance: Appliance) -> None:
    """Not the public one, nor the private one, nor the gateway's but for names, nor one that is added later."""
    with socket.create_server(("", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        subprocess.run(["ip", "address", "add", "5.6.7.8/32", "dev", "eth0"], check=True)
        try:
            mine = ["11.0.0.2", "192.168.77.1", "198.18.0.0", "5.6.7.8"]
            answers = reach(appliance, *((address, port) for address in mine))
            assert set(answers) <= {REFUSED, "timeout"}, answers
            for address in mine:
                socket.create_connection((address, port), 5).close()  # the control
        finally:
            subprocess.run(["ip", "address", "delete", "5.6.7.8/32", "dev", "eth0"], check=True)


def test_a_published_port_of_the_host_is_not_reached(appliance: Appliance) -> None:
    """Docker's way: the host's address leads to a container before any filter of input."""
    rules = (
        "table ip published { chain pre { type nat hook prerouting priority -100; tcp dport 8080 dnat to 93.184.216.34:80; }; }"
    )
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
    try:
        assert reach(appliance, ("11.0.0.2", 8080)) == ["timeout"]
        assert reach(appliance, ("8.8.8.8", 8080)) == ["timeout"]
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "published"], check=True)


def test_what_is_allowed_is_reached(appliance: Appliance) -> None:
    """A range, all ports but that of mail; an address and a port, but no other; a name and a port."""
    assert reach(appliance, ("10.20.30.1", 80), ("10.20.30.1", 25)) == [f"10.20.30.1 {HOSTS_OWN}", REFUSED]
    assert reach(appliance, ("10.99.0.7", 5432), ("10.99.0.7", 80)) == [f"10.99.0.7 {HOSTS_OWN}", REFUSED]
    assert reach(appliance, ("10.99.0.8", 5432)) == [REFUSED]


def test_a_name_is_looked_up_and_its_page_read(appliance: Appliance) -> None:
    source = (
        "import urllib.request\n"
        "def Run(engine):\n"
        "    engine.result.set(urllib.request.urlopen('http://www.public.example/', timeout=10).read().decode())\n"
    )
    assert appliance.run(source).body == f"93.184.216.34 {HOSTS_OWN}".encode()


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("www.public.example", ["93.184.216.34"]),
        ("long.example", sorted(f"93.184.{number}.1" for number in range(120))),
        ("rebound.example", ["127.0.0.1"]),
    ],
)
def test_names_are_answered(appliance: Appliance, name: str, addresses: list[str]) -> None:
    """A forged answer that came first is passed over; a long one comes by TCP."""
    source = (
        "import socket\n"
        "def Run(engine):\n"
        "    engine.result.set(sorted({a[4][0] for a in socket.getaddrinfo(engine.params.get('name'), 80, socket.AF_INET)}))\n"
    )
    assert appliance.call(appliance.create(source), name=name).json() == addresses


def test_a_name_that_is_allowed_is_reached_at_its_port(appliance: Appliance) -> None:
    eventually(lambda: any(line.get("event") == "NETWORK_ALLOW opened" for line in appliance.lines))
    assert reach(appliance, ("inside.example", 80)) == [f"10.50.60.70 {HOSTS_OWN}"]
    assert reach(appliance, ("inside.example", 5432), ("10.50.60.71", 80)) == [REFUSED, REFUSED]


def test_a_public_name_that_stands_for_loopback_leads_nowhere(appliance: Appliance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert reach(appliance, ("rebound.example", listener.getsockname()[1])) == [REFUSED]


def test_without_network_nothing_is_reached(appliance: Appliance) -> None:
    assert reach(appliance, ("93.184.216.34", 80), network="none") == ["ENETUNREACH"]


def test_nobody_outside_the_runs_reaches_the_name_server(appliance: Appliance) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(bytes(12), ("198.18.0.0", 53))
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            sock.recv(512)


def test_the_runs_degree_has_the_filter(appliance: Appliance) -> None:
    extra = appliance.run_of(appliance.run("print()"))["extra"]
    assert "network_filter" not in extra["isolation_missing"]


MEET = """
import errno, json, socket, time

def Run(engine):
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.connect(("93.184.216.34", 9))
    mine = probe.getsockname()[0].encode()
    peers = json.loads(engine.body)
    heard, errors = [], []
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", 9999))
    receiver.settimeout(0.05)
    group = socket.inet_aton("239.1.2.3")
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    try:
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton("0.0.0.0"))
    except OSError as error:
        errors.append(str(error))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        for target in [*peers, "239.1.2.3", "255.255.255.255", "224.0.0.1"]:
            try:
                receiver.sendto(mine, (target, 9999))
            except OSError as error:
                errors.append(errno.errorcode[error.errno])
        for target in ("ff02::1", "fe80::1"):
            try:
                six.sendto(mine, (target, 9999, 0, 2))
            except OSError as error:
                errors.append(errno.errorcode[error.errno])
        try:
            data = receiver.recv(100)
            heard += [data.decode()] if data != mine else []
        except OSError:
            pass
    engine.result.set({"mine": mine.decode(), "heard": heard, "errors": sorted(set(errors))})
"""


def test_two_runs_never_meet(appliance: Appliance) -> None:
    """By datagrams to each other's address, multicast, broadcast, or IPv6's link-local addresses, while both listen."""
    everybody = json.dumps([f"198.18.0.{last}" for last in range(64)]).encode()
    code_id = appliance.create(MEET)
    with ThreadPoolExecutor(3) as threads:
        answers = [
            each.result(HANG_GUARD).json() for each in [threads.submit(appliance.call, code_id, everybody) for _ in range(3)]
        ]
    assert [answer["heard"] for answer in answers] == [[], [], []]
    assert len({answer["mine"] for answer in answers}) == 3, "each has an address of its own"


def test_two_processes_of_a_host_would_meet(host: None) -> None:
    """The control: the same program, twice in one network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        one.bind(("192.168.77.1", 9999))
        one.settimeout(5)
        other.sendto(b"from a run", ("192.168.77.1", 9999))
        assert one.recv(100) == b"from a run"
