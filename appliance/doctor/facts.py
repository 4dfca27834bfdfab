"""What this host has that a run must not reach: real listeners and a real file, there for as long as the probes run."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import trio

from appliance.runner.sandbox.seccomp import MACHINES

METADATA = ("169.254.169.254|80", "fd00:ec2::254|80")
_FOLDERS = "/ /bin /boot /dev /engine /etc /home /lib /mnt /opt /proc /root /run /srv /sys /usr /usr/bin /var /var/lib /var/tmp"
_IDENTITIES = (
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/hostname",
    "/proc/sys/kernel/random/boot_id",
    "/sys/class/dmi/id/product_uuid",
    "/proc/cmdline",
)

Params = dict[str, str]


@asynccontextmanager
async def host_facts() -> AsyncIterator[Params]:
    """The probes' parameters. A list of targets is empty where this host has none of that kind."""
    async with trio.open_nursery() as nursery:
        loopback = [await _listening(nursery, host) for host in ("127.0.0.1", "::1") if _has(host)]
        addresses = [await _listening(nursery, host) for host in _addresses()]
        with tempfile.NamedTemporaryFile(prefix="codeactions-doctor-") as file:
            os.fchmod(file.fileno(), 0o644)
            yield {
                "host_file": file.name,
                "host_name": os.uname().nodename,
                "folders": _FOLDERS,
                "identities": " ".join(_IDENTITIES),
                "loopback": " ".join(loopback),
                "addresses": " ".join(addresses),
                "metadata": " ".join(METADATA),
                "everything": " ".join((*loopback, *addresses)),
                **{name: str(MACHINES[os.uname().machine].numbers[name]) for name in ("io_uring_setup", "bpf", "keyctl")},
            }
        nursery.cancel_scope.cancel()


async def _listening(nursery: trio.Nursery, host: str) -> str:
    """`host|port` of a listener that hangs up on everybody."""
    [listener] = await trio.open_tcp_listeners(0, host=host)
    nursery.start_soon(trio.serve_listeners, _hang_up, [listener], name=f"listener on {host}")
    return f"{host}|{listener.socket.getsockname()[1]}"


async def _hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


def _has(host: str) -> bool:
    """The kernel may be without IPv6, and a network namespace without a loopback that is up."""
    return host in _local_v4() or host in _local_v6()


def _addresses() -> list[str]:
    """Other than loopback, and those that need an interface to be named."""
    own = map(ip_address, (*_local_v4(), *_local_v6()))
    return [str(address) for address in own if not address.is_loopback and not address.is_link_local]


def _local_v4() -> list[str]:
    """From the routing table of the kernel: an address, and on a line below it that it is this host's."""
    found: dict[str, None] = {}
    last = ""
    for line in _lines("/proc/net/fib_trie"):
        if "|-- " in line:
            last = line.split()[-1]
        elif line.split()[:3] == ["/32", "host", "LOCAL"]:
            found[last] = None
    return list(found)


def _local_v6() -> Iterator[str]:
    """proc_net(5): the address stands first in a line."""
    return (str(IPv6Address(bytes.fromhex(line.split()[0]))) for line in _lines("/proc/net/if_inet6"))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:  # a kernel without that protocol
        return []
