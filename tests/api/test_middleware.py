"""Whose request the log says that it is."""

from ipaddress import ip_network
from typing import Any

import pytest

from appliance.api.middleware import client_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1"))


def scope(peer: str, *forwarded: str) -> Any:
    return {"client": (peer, 1), "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded]}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.9, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.9", "192.0.2.1"], "192.0.2.1"),
        ("::1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("203.0.113.5", ["192.0.2.1"], "203.0.113.5"),
    ],
)
def test_only_a_trusted_proxy_is_believed(peer: str, forwarded: list[str], client: str) -> None:
    assert client_of(scope(peer, *forwarded), PROXIES) == client


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert client_of(scope("10.0.0.1", "192.0.2.1"), ()) == "10.0.0.1"
