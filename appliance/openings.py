"""What NETWORK_ALLOW opens, as values: a host or a range, with or without a port."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

Range = IPv4Network | IPv6Network

TAKES = (
    "a comma-separated list of hosts, addresses or ranges, with a port or without: 10.0.0.0/8, db.example.org:5432, [fd00::5]:80"
)
_NAME = re.compile(
    r"(?!-)(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE
)
_MOST_PORT = 65535

# Never routed: a setting that named one would look as if it worked.
_UNROUTED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/127",
        "::ffff:0:0/96",
        "fe80::/10",
        "ff00::/8",
    )
)


class Opening(NamedTuple):
    """`where` is a range, or a name that is looked up; `port` None: all but that of mail (25)."""

    where: Range | str
    port: int | None


def is_routed(opened: Range) -> bool:
    """Whether a packet to it can leave a run's network. A wide range (0.0.0.0/0) may hold some that can't."""
    return not any(opened.version == other.version and _within(opened, other) for other in _UNROUTED)


def _within(narrow: Range, wide: Range) -> bool:
    return wide.network_address <= narrow.network_address and narrow.broadcast_address <= wide.broadcast_address  # type: ignore[operator]


def parse(text: str) -> Opening:
    """Raises ValueError."""
    if match := re.fullmatch(r"\[(.+)\](?::(\d+))?", text):
        where, port = match.groups()
    elif text.count(":") == 1:
        where, port = text.split(":")
    else:
        where, port = text, None
    opened = _where(where)
    if opened is None or (port is not None and not _is_port(port)):
        raise ValueError(f"not to be opened: {text}")
    return Opening(opened, None if port is None else int(port))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_PORT


def _where(text: str) -> Range | str | None:
    try:
        opened = ip_network(text, strict=False)
    except ValueError:
        # A name whose last part is a number is an address that is wrong.
        is_name = _NAME.fullmatch(text) is not None and not text.rpartition(".")[2].isdigit()
        return text.lower() if is_name else None
    return opened if is_routed(opened) else None
