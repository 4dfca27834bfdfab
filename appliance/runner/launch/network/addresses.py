"""Which addresses the parts of the network have, and which ones no run may reach. Pure."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

Address = IPv4Address | IPv6Address

DEVICES = "codeactions"  # a launcher's on the host is called so, with its number
INSTANCES = 32  # launchers with a network on one host
# For measuring devices, not for networks (RFC 2544): the range that collides least, though some VPN clients use it too.
OURS_V4 = IPv4Network("198.18.0.0/15")
_PER_INSTANCE = OURS_V4.num_addresses // INSTANCES
_OURS_V6 = IPv6Network("fdca:c0de:ac71::/48")  # RFC 4193

# IANA's registries of special-purpose addresses, and what carries an IPv4 address inside an IPv6 one.
CLOSED_V4 = (
    "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for itself
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # carriers' NAT; some clouds' metadata and overlay networks
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local; clouds' metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks, and ours
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
CLOSED_V6 = (
    "::/3",  # unspecified, loopback, v4-mapped (::ffff:0:0/96), v4-compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48)
    "2001::/23",  # protocol assignments: Teredo (2001::/32), benchmarks (2001:2::/48), ORCHID
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4: any IPv4 address, private ones too
    "3fff::/20",  # documentation
    "4000::/2",  # not assigned
    "8000::/1",  # unique local (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast (ff00::/8), not assigned
)


class Link(NamedTuple):
    """The two ends of a veth: `near` is the host's or the router's, `far` the router's or the slot's. /31, and /127."""

    near: IPv4Address
    far: IPv4Address
    near_v6: IPv6Address
    far_v6: IPv6Address


class Plan(NamedTuple):
    """The addresses of one launcher on this host."""

    instance: int

    @property
    def device(self) -> str:
        """On the host; at most 15 characters."""
        return f"{DEVICES}{self.instance}"

    @property
    def table(self) -> str:
        return "codeactions" + (str(self.instance) if self.instance else "")

    @property
    def range_v4(self) -> IPv4Network:
        first = OURS_V4[self.instance * _PER_INSTANCE]
        return IPv4Network((first, 32 - (_PER_INSTANCE.bit_length() - 1)))

    @property
    def range_v6(self) -> IPv6Network:
        return IPv6Network((_OURS_V6.network_address + (self.instance << 64), 64))

    @property
    def uplink(self) -> Link:
        return self._link(0)

    @property
    def gateway(self) -> IPv4Address:
        """Where runs ask for names."""
        return self.uplink.near

    def slot(self, index: int) -> Link:
        return self._link(1 + index)

    def _link(self, number: int) -> Link:
        v4, v6 = self.range_v4, self.range_v6
        near, far = 2 * number, 2 * number + 1
        # From 16 on: the lowest addresses of an IPv6 network mean its routers.
        return Link(v4[near], v4[far], v6[16 + near], v6[16 + far])
