"""The texts for nft and ip, and what NETWORK_ALLOW means: pure functions."""

import subprocess
from ipaddress import ip_address, ip_network

import pytest

from appliance import openings
from appliance.openings import Opening
from appliance.runner.launch.network import rules
from appliance.runner.launch.network.addresses import CLOSED_V4, CLOSED_V6, INSTANCES, Plan
from appliance.runner.launch.network.rules import Opened
from appliance.runner.launch.slots import SLOTS


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        ("10.1.2.3", Opening(ip_network("10.1.2.3"), None)),
        ("10.1.2.3/8", Opening(ip_network("10.0.0.0/8"), None)),
        ("10.0.0.0/8:443", Opening(ip_network("10.0.0.0/8"), 443)),
        ("fd00::5", Opening(ip_network("fd00::5"), None)),
        ("[fd00::/64]:80", Opening(ip_network("fd00::/64"), 80)),
        ("DB.internal:5432", Opening("db.internal", 5432)),
        ("db", Opening("db", None)),
        ("0.0.0.0/0", Opening(ip_network("0.0.0.0/0"), None)),
        ("169.254.169.254", Opening(ip_network("169.254.169.254"), None)),
    ],
)
def test_an_opening_is_a_range_or_a_name_with_or_without_a_port(text: str, opening: Opening) -> None:
    assert openings.parse(text) == opening


@pytest.mark.parametrize(
    "text",
    [
        *("10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:http", "10.0.0", "1.2.3.4.5", "a b", "-x.example", "a..b", "--name", ""),
        *("::1", "[::1]", "fe80::1", "ff02::1", "::ffff:10.0.0.1", "224.0.0.1", "127.1.2.3", "0.0.0.0", "255.255.255.255"),
    ],
)
def test_what_is_no_opening_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not to be opened"):
        openings.parse(text)


def test_a_wider_opening_stands_for_those_within_it() -> None:
    wide, port, within, mail = (
        Opened(ip_network("10.0.0.0/8"), None),
        Opened(ip_network("11.0.0.0/8"), 443),
        Opened(ip_network("10.1.0.0/16"), 80),
        Opened(ip_network("10.2.0.0/16"), 25),
    )
    assert set(rules.without_overlaps([within, wide, port, mail, port])) == {wide, port, mail}


def test_no_two_links_of_a_host_have_an_address_in_common() -> None:
    seen = set()
    for instance in range(INSTANCES):
        plan = Plan(instance)
        for link in (plan.uplink, plan.slot(0), plan.slot(1), plan.slot(SLOTS - 1)):
            assert link.near in plan.range_v4
            assert link.far in plan.range_v4
            assert link.far_v6 in plan.range_v6
            seen |= {link.near, link.far, link.near_v6, link.far_v6}
    assert len(seen) == INSTANCES * 4 * 4


def test_a_device_has_a_name_that_the_kernel_takes() -> None:
    assert max(len(Plan(instance).device) for instance in range(INSTANCES)) <= 15


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "172.15.255.255", "172.32.0.0", "198.17.255.255", "223.255.255.255"]
)
def test_public_addresses_are_not_closed(address: str) -> None:
    assert not any(ip_address(address) in ip_network(closed) for closed in CLOSED_V4)


@pytest.mark.parametrize(
    "address", ["2606:4700::1111", "2a00:1450::1", "2001:200::1", "2001:4860:4860::8888", "2003::1", "3ffe::1"]
)
def test_public_ipv6_addresses_are_not_closed(address: str) -> None:
    assert not any(ip_address(address) in ip_network(closed) for closed in CLOSED_V6)


def test_nft_takes_the_router_of_every_kind_of_opening(host: None) -> None:
    """Its parser and this kernel, without putting anything in force."""
    opened = [
        Opened(ip_network(text), port) for text in ("10.0.0.0/8", "10.9.9.9", "fd00::/64", "fd00:1::1") for port in (None, 80)
    ]
    text = rules.router_table(Plan(3), rules.without_overlaps(opened))
    done = subprocess.run(["nft", "--check", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
