"""Whether the host routes packets between our device and its others: opened where it isn't, and given back.

A unit sets net.ipv4.ip_forward before the launcher starts; then nothing here has anything to do. Without a unit only those
interfaces are opened that lead out of the host, each by its own setting: ip_forward stays as it is, so that whoever sets it later
(Docker) still does what goes with it. The host's table lets through those interfaces only what is ours.

A setting is opened by the first launcher that needs it, and given back by the last. Each is a file in /run, which holds the value
from before, under a lock that all who need it share: one that is killed -9 can't give back, the next one that ends does.
"""

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

import structlog

from appliance.runner.launch.network.addresses import DEVICES

log = structlog.get_logger()

_CLOSED, _OPEN = "0", "1"
_GATEWAY = 0x2  # RTF_… of route(7) and linux/ipv6_route.h
_REJECT = 0x200
_BY_ADVERTISEMENT = 0x40000
_ALL_V4 = "net/ipv4/ip_forward"
_ALL_V6 = "net/ipv6/conf/all/forwarding"
_FOLDER = Path("/run")


class Route(NamedTuple):
    device: str
    flags: int


def uplinks() -> set[str]:
    """The interfaces that have a gateway, in the network namespace that this process is in; ours lead to routers of runs."""
    lines = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    leading_out = {fields[0] for fields in lines if int(fields[3], 16) & _GATEWAY or fields[1] == fields[7] == "00000000"}
    return {device for device in leading_out if not device.startswith(DEVICES)}


def default_routes_v6() -> list[Route]:
    try:
        lines = [line.split() for line in Path("/proc/net/ipv6_route").read_text().splitlines()]
    except FileNotFoundError:  # a kernel without IPv6
        return []
    routes = [Route(fields[9], int(fields[8], 16)) for fields in lines if fields[0] == "0" * 32 and fields[1] == "00"]
    return [route for route in routes if not route.flags & _REJECT]


def why_no_ipv6() -> str:
    """Why runs get none; empty when they do."""
    routes = default_routes_v6()
    if not routes:
        return "the host has no default route for it"
    if _read(_ALL_V6) == _OPEN:
        return ""
    advertised = [route.device for route in routes if route.flags & _BY_ADVERTISEMENT]
    closed = [device for device in advertised if _read(f"net/ipv6/conf/{device}/accept_ra") != "2"]
    if closed:  # the kernel would drop the route as soon as it forwards
        return f"a router takes no router advertisements, where its default route is from: net.ipv6.conf.{closed[0]}.accept_ra=2"
    return ""


def set_own(device: str) -> None:
    """Of our own device, which takes its settings with it when it goes. It believes no route that the router might tell of."""
    for name, value in (("forwarding", _OPEN), ("accept_redirects", "0"), ("send_redirects", "0")):
        _write(f"net/ipv4/conf/{device}/{name}", value)


class Forwarding:
    """What we hold open. `close` gives it back."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._namespace = os.stat("/proc/self/ns/net").st_ino

    def is_open(self) -> bool:
        """Somebody has opened all of it, so that nothing of it is ours to close."""
        return _read(_ALL_V4) == _OPEN

    def open_device(self, device: str) -> bool:
        """For IPv4. Whether it was ours to open."""
        return self._open(f"net/ipv4/conf/{device}/forwarding")

    def open_ipv6(self) -> None:
        """IPv6 knows it for all interfaces only."""
        self._open(_ALL_V6)

    def _open(self, name: str) -> bool:
        if name in self._held:
            return True
        path = self._path(name)
        if _read(name) == _OPEN and not path.exists():
            return False
        fd, alone = _locked(path)
        if alone:
            if not os.pread(fd, 1, 0):  # else one that was killed has left the value from before
                os.pwrite(fd, _read(name).encode(), 0)
            _write(name, _OPEN)
            fcntl.flock(fd, fcntl.LOCK_SH)
        self._held[name] = fd
        log.info("forwarding opened", setting=name.replace("/", "."))
        return True

    def take_over(self) -> None:
        """What is open by us in this network namespace, whoever has opened it."""
        for path in _FOLDER.glob(self._path("*").name):
            name = path.name.removeprefix(self._path("").name)
            self._open(_setting_of(name))

    def close(self) -> None:
        while self._held:
            name, fd = self._held.popitem()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another launcher needs it still
                continue
            else:
                if not (name.startswith("net/ipv4/") and self.is_open()):
                    _write(name, os.pread(fd, 8, 0).decode())
                self._path(name).unlink()
            finally:
                os.close(fd)

    def _path(self, name: str) -> Path:
        return _FOLDER / f"codeactions-{self._namespace}-{name.replace('/', '.')}"


def give_back_what_is_left() -> None:
    """Settings that a launcher of this network namespace opened before it was killed, when no other needs them."""
    held = Forwarding()
    held.take_over()
    held.close()


def _setting_of(name: str) -> str:
    """From a file's name; a device's may have dots of its own, as a VLAN's has."""
    protocol, device = name[: len("net.ipv4.conf.")], name[len("net.ipv4.conf.") :].removesuffix(".forwarding")
    return f"{protocol.replace('.', '/')}{device}/forwarding"


def _locked(path: Path) -> tuple[int, bool]:
    """The file, locked, and whether nobody else holds it: who does has opened the setting.

    Never one that its last holder has just removed.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            fcntl.flock(fd, fcntl.LOCK_SH)  # at once, but for the moment in which the first one opens, or the last one closes
            alone = False
        if os.fstat(fd).st_nlink:
            return fd, alone
        os.close(fd)


def _read(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except FileNotFoundError:  # no such interface any more, or a kernel without IPv6
        return _CLOSED


def _write(name: str, value: str) -> None:
    try:
        Path("/proc/sys", name).write_text(value)
    except FileNotFoundError:
        log.info("an interface has gone", setting=name.replace("/", "."))
