"""The texts for `nft` and `ip -batch`: pure functions of the addresses. Each can be pasted."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from appliance.openings import Range
from appliance.runner.launch.network.addresses import CLOSED_V4, CLOSED_V6, Plan

# With `lo` down these would leave by the default route, and a program would wait for what never answers.
_NOWHERE_V4 = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")
_NOWHERE_V6 = ("::/127", "ff00::/8")
MOST_CONNECTIONS = 128  # tracked at once, a slot
_NEW_A_SECOND = 64  # a slot; names that are looked up count too
_NEW_AT_ONCE = 128
_MAIL_PORT = 25  # a host that sends spam is soon one whose mail nobody takes
_SLOT_PREFIX = "s"
# Who is at the other end of a link is known: nobody asks (without link-local addresses a router can't), nor says otherwise.
_NEAR_MAC, _FAR_MAC = "02:ca:c0:de:00:01", "02:ca:c0:de:00:02"


class Opened(NamedTuple):
    """Of NETWORK_ALLOW: all ports of a range but that of mail, or one port."""

    range: Range
    port: int | None


def slot_device(index: int) -> str:
    """The router's end of a slot's veth."""
    return f"{_SLOT_PREFIX}{index}"


def host_table(plan: Plan, *, ipv6: bool, most_connections: int) -> str:
    """The host's table, for a session that owns it. `most_connections`: of all runs together, so that the host keeps its own.

    `prerouting` is before anybody's DNAT: a port that Docker publishes on the host's address is the host's too. From interfaces
    that we have opened (`uplinks`) the host routes nothing but what is ours; those that others have opened are theirs.
    """
    device, table, gateway = plan.device, plan.table, plan.gateway
    lines = [
        f"add table inet {table} {{ flags owner; }}",
        f"add set inet {table} uplinks {{ type ifname; }}",
        f"add chain inet {table} prerouting {{ type filter hook prerouting priority raw; policy accept; }}",
        f"add chain inet {table} input {{ type filter hook input priority filter; policy accept; }}",
        f"add chain inet {table} forward {{ type filter hook forward priority filter; policy accept; }}",
        f"add chain inet {table} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}",
        f"add chain inet {table} to_host",
        f"add rule inet {table} to_host ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept",
        f"add rule inet {table} to_host drop",
        f'add rule inet {table} prerouting iifname "{device}" fib daddr type != unicast jump to_host',
        f'add rule inet {table} input iifname "{device}" jump to_host',
        f'add rule inet {table} forward iifname "{device}" oifname "{device}" drop',
        f'add rule inet {table} forward iifname "{device}" ct status dnat drop',
        f'add rule inet {table} forward iifname "{device}" ct state new ct count over {most_connections} drop',
        f'add rule inet {table} forward oifname "{device}" ct state established,related accept',
        f'add rule inet {table} forward oifname "{device}" drop',
        f"add rule inet {table} forward iifname @uplinks ct state new ct status & dnat == 0 drop",
        f'add rule inet {table} postrouting ip saddr {plan.range_v4} oifname != "{device}" masquerade',
        *([f'add rule inet {table} postrouting ip6 saddr {plan.range_v6} oifname != "{device}" masquerade'] if ipv6 else []),
    ]
    return "; ".join(lines)


def open_uplinks(plan: Plan, devices: Iterable[str]) -> str:
    return f"add element inet {plan.table} uplinks {{ {', '.join(_quoted(devices))} }}"


def trace_probe(plan: Plan, port: int) -> str:
    """The kernel then tells which rules a datagram of the router's own meets on the host."""
    ours = f'iifname "{plan.device}" ip saddr {plan.uplink.far} udp dport {port}'
    return f"insert rule inet {plan.table} prerouting {ours} meta nftrace set 1"


def forget_uplinks(plan: Plan) -> str:
    return f"flush set inet {plan.table} uplinks"


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def router_table(plan: Plan, opened: Sequence[Opened]) -> str:
    """The router's: what leaves a slot. A slot is known by its device, which nothing in it can change.

    A refused address is answered, so that a program fails at once and with a reason; a limit drops, so that it tries again.
    """
    return f"""\
table inet router {{
    set closed_v4 {{ type ipv4_addr; flags interval; elements = {{ {", ".join(CLOSED_V4)} }}; }}
    set closed_v6 {{ type ipv6_addr; flags interval; elements = {{ {", ".join(CLOSED_V6)} }}; }}
    set opened_v4 {{ type ipv4_addr . inet_service; flags interval; }}
    set opened_v6 {{ type ipv6_addr . inet_service; flags interval; }}
    set named_v4 {{ type ipv4_addr . inet_service; flags interval; }}
    set named_v6 {{ type ipv6_addr . inet_service; flags interval; }}
    set connections {{ type iface_index; size 65535; flags dynamic; }}
    set rates {{ type iface_index; size 65535; flags dynamic; }}
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "uplink" fib saddr . iif oif missing drop
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "uplink" ct state established,related accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iifname "uplink" drop
        oifname != "uplink" drop
        add @rates {{ iif limit rate over {_NEW_A_SECOND}/second burst {_NEW_AT_ONCE} packets }} drop
        add @connections {{ iif ct count over {MOST_CONNECTIONS} }} drop
        meta l4proto != {{ tcp, udp }} drop
        ip daddr {plan.gateway} th dport 53 accept
        ip daddr . th dport @opened_v4 accept
        ip6 daddr . th dport @opened_v6 accept
        ip daddr . th dport @named_v4 accept
        ip6 daddr . th dport @named_v6 accept
        ip daddr @closed_v4 reject with icmpx type admin-prohibited
        ip6 daddr @closed_v6 reject with icmpx type admin-prohibited
        th dport {_MAIL_PORT} reject with icmpx type admin-prohibited
        accept
    }}
}}
{open_ranges("opened", opened)}"""


def open_ranges(name: str, opened: Iterable[Opened]) -> str:
    """`name`: `opened` by the setting itself, or `named` by it and looked up: these replace what was there."""
    lines = []
    kept = list(opened)
    for version in (4, 6):
        lines.append(f"flush set inet router {name}_v{version}")
        if elements := [text for one in kept if one.range.version == version for text in _elements(one)]:
            lines.append(f"add element inet router {name}_v{version} {{ {', '.join(elements)} }}")
    return "".join(f"{line}\n" for line in lines)


def _elements(opened: Opened) -> list[str]:
    where = str(opened.range.network_address) if opened.range.num_addresses == 1 else str(opened.range)
    if opened.port is not None:
        return [f"{where} . {opened.port}"]
    return [f"{where} . 0-{_MAIL_PORT - 1}", f"{where} . {_MAIL_PORT + 1}-65535"]


def without_overlaps(opened: Iterable[Opened]) -> list[Opened]:
    """A set of intervals takes no element that overlaps another: a wider one stands for those within it."""
    kept: list[Opened] = []
    for one in sorted(set(opened), key=lambda each: (each.range.version, each.range.prefixlen, each.port is not None)):
        if not any(_covers(other, one) for other in kept):
            kept.append(one)
    return kept


def _covers(wide: Opened, narrow: Opened) -> bool:
    if wide.range.version != narrow.range.version:
        return False
    within = int(wide.range.network_address) <= int(narrow.range.network_address) <= int(wide.range.broadcast_address)
    return within and (wide.port == narrow.port or (wide.port is None and narrow.port != _MAIL_PORT))


def host_device(plan: Plan, router: str) -> str:
    """`router`: the path of the router's namespace. It fails when the device is there: then another launcher has this number."""
    return f"link add {plan.device} address {_NEAR_MAC} type veth peer name uplink address {_FAR_MAC} netns {router}\n"


def host_addresses(plan: Plan, *, ipv6: bool) -> str:
    """No device of ours has a link-local address: nobody is to be met by one."""
    device, link = plan.device, plan.uplink
    lines = [
        *([f"link set {device} addrgenmode none"] if ipv6 else []),
        f"address add {link.near}/31 dev {device}",
        *([f"address add {link.near_v6}/127 dev {device} nodad"] if ipv6 else []),
        f"link set {device} up",
        *_neighbours(device, _FAR_MAC, link.far, link.far_v6, ipv6=ipv6),
        f"route add {plan.range_v4} via {link.far} dev {device}",
        *([f"route add {plan.range_v6} via {link.far_v6} dev {device}"] if ipv6 else []),
    ]
    return _batch(lines)


def router_addresses(plan: Plan, *, ipv6: bool) -> str:
    link = plan.uplink
    lines = [
        *(["link set uplink addrgenmode none"] if ipv6 else []),
        f"address add {link.far}/31 dev uplink",
        *([f"address add {link.far_v6}/127 dev uplink nodad"] if ipv6 else []),
        "link set uplink up",
        *_neighbours("uplink", _NEAR_MAC, link.near, link.near_v6, ipv6=ipv6),
        f"route add default via {link.near}",
        *([f"route add default via {link.near_v6}"] if ipv6 else []),
    ]
    return _batch(lines)


def slot_link(plan: Plan, index: int, slot: str, *, ipv6: bool) -> str:
    """In the router's namespace; `slot`: the path of the slot's."""
    device, link = slot_device(index), plan.slot(index)
    lines = [
        f"link add {device} address {_NEAR_MAC} type veth peer name eth0 address {_FAR_MAC} netns {slot}",
        *([f"link set {device} addrgenmode none"] if ipv6 else []),
        f"address add {link.near}/31 dev {device}",
        *([f"address add {link.near_v6}/127 dev {device} nodad"] if ipv6 else []),
        f"link set {device} up",
        *_neighbours(device, _FAR_MAC, link.far, link.far_v6, ipv6=ipv6),
    ]
    return _batch(lines)


def slot_addresses(plan: Plan, index: int, *, ipv6: bool) -> str:
    """In the slot's namespace. `lo` stays down: there is nothing of the run's own to reach, and it can't listen."""
    link = plan.slot(index)
    lines = [
        *(["link set eth0 addrgenmode none"] if ipv6 else []),
        f"address add {link.far}/31 dev eth0",
        *([f"address add {link.far_v6}/127 dev eth0 nodad"] if ipv6 else []),
        "link set eth0 up",
        *_neighbours("eth0", _NEAR_MAC, link.near, link.near_v6, ipv6=ipv6),
        *(f"route add unreachable {network}" for network in (*_NOWHERE_V4, *(_NOWHERE_V6 if ipv6 else ()))),
        f"route add default via {link.near}",
        *([f"route add default via {link.near_v6}"] if ipv6 else []),
    ]
    return _batch(lines)


def _neighbours(device: str, mac: str, v4: IPv4Address, v6: IPv6Address, *, ipv6: bool) -> list[str]:
    addresses = (v4, v6) if ipv6 else (v4,)
    return [f"neighbour add {address} lladdr {mac} dev {device} nud permanent" for address in addresses]


def remove_slot(index: int) -> str:
    return f"link delete {slot_device(index)}\n"


def _batch(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
