"""The kernel's table of connections, of one address: what a run has left there goes with it.

By netlink (NFNL_SUBSYS_CTNETLINK) and not by `conntrack -D`, which would be another package to install and 3 ms a run. Formats:
linux/netfilter/nfnetlink_conntrack.h; filtering in the kernel by an original source came with Linux 5.8.
"""

import os
import socket
import struct
from collections.abc import Iterator

from appliance.runner.launch.network.addresses import Address

_NETLINK_NETFILTER = 12
_CTNETLINK = 1 << 8
_NEW, _GET, _DELETE = _CTNETLINK, _CTNETLINK | 1, _CTNETLINK | 2
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NESTED = 0x8000
_CTA_TUPLE_ORIG, _CTA_FILTER = 1, 25
_CTA_TUPLE_IP = 1
_CTA_IP_V4_SRC, _CTA_IP_V6_SRC = 1, 3
_CTA_FILTER_ORIG_FLAGS, _CTA_FILTER_REPLY_FLAGS = 1, 2
_BY_SOURCE = 1  # CTA_FILTER_FLAG(CTA_IP_SRC)
_HEAD = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_ENOENT = 2


def open_socket() -> socket.socket:
    """Of the network namespace of the calling thread, for good. Needs CAP_NET_ADMIN there."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)


def forget(netlink: socket.socket, address: Address) -> int:
    """Deletes what the address has begun; returns how many there were. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    source = _attribute(_CTA_IP_V4_SRC if address.version == 4 else _CTA_IP_V6_SRC, address.packed)
    tuple_of = _attribute(_CTA_TUPLE_ORIG | _NESTED, _attribute(_CTA_TUPLE_IP | _NESTED, source))
    flags = _attribute(_CTA_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_SOURCE)) + _attribute(
        _CTA_FILTER_REPLY_FLAGS, struct.pack("=I", 0)
    )
    netlink.send(_message(_GET, _REQUEST | _DUMP, family, tuple_of + _attribute(_CTA_FILTER | _NESTED, flags)))
    found = [entry for kind, entry in _answers(netlink) if kind == _NEW]
    for entry in found:
        netlink.send(_message(_DELETE, _REQUEST | _ACK, family, _first(entry[_FAMILY.size :], _CTA_TUPLE_ORIG)))
        for _ in _answers(netlink, gone=(_ENOENT,)):  # it has ended by itself meanwhile
            pass
    return len(found)


def _message(kind: int, flags: int, family: int, attributes: bytes) -> bytes:
    body = _FAMILY.pack(family, 0, 0) + attributes
    return _HEAD.pack(_HEAD.size + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, content: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content + bytes(-len(content) % 4)


def _first(attributes: bytes, kind: int) -> bytes:
    """The attribute itself, with its head, as it goes back to the kernel."""
    while attributes:
        length, found = _ATTRIBUTE.unpack_from(attributes)
        if found & ~_NESTED == kind:
            return attributes[: length + -length % 4]
        attributes = attributes[length + -length % 4 :]
    raise OSError(0, "a connection without a beginning")


def _answers(netlink: socket.socket, gone: tuple[int, ...] = ()) -> Iterator[tuple[int, bytes]]:
    """Until the kernel says that this was all. Raises OSError with its errno, but for those of `gone`."""
    while True:
        data = netlink.recv(1 << 17)
        while data:
            length, kind, _, _, _ = _HEAD.unpack_from(data)
            body, data = data[_HEAD.size : length], data[length + -length % 4 :]
            if kind in (_ERROR, _DONE):
                number = -struct.unpack_from("=i", body)[0]
                if number and number not in gone:
                    raise OSError(number, f"conntrack: {os.strerror(number)}")
                return
            yield kind, body
