"""Network namespaces held by a descriptor, and commands that run in them."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import structlog
import trio

from appliance.runner.sandbox import syscalls

log = structlog.get_logger()

T = TypeVar("T")

_COMMAND_SECONDS = 30  # they take milliseconds
# Nothing of one run is to be found by the next: a connection that has ended leaves no trace (tcp_max_tw_buckets,
# tcp_no_metrics_save), and what a peer tells the kernel of routes isn't believed.
_SETTINGS = {
    "net/ipv4/tcp_max_tw_buckets": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_redirects": "0",
}
_ROUTES = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/default/send_redirects": "0"}


class NetworkFailed(Exception):
    """The network can't be made, or a slot's part of it; the message names the command and says what it said."""


class Namespace:
    """`fd` is its only name; closing it, with everything in it ended, is its end. `watched`: files of its /proc/net,
    which tell what happens in it to a process that isn't there."""

    def __init__(self, fd: int, watched: dict[str, int]) -> None:
        self.fd = fd
        self._watched = watched

    @property
    def path(self) -> str:
        """As other processes find it."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def read(self, name: str) -> str:
        return os.pread(self._watched[name], 1 << 16, 0).decode()

    def close(self) -> None:
        for fd in (self.fd, *self._watched.values()):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def make(*, routes: bool, ipv6: bool, watched: Sequence[str] = ()) -> Namespace:
    """An empty one, with the settings of a router or of a slot; `lo` is down. Raises `NetworkFailed`."""
    try:
        return await trio.to_thread.run_sync(_make, routes, ipv6, tuple(watched))
    except OSError as error:
        raise NetworkFailed(f"a network namespace: {error}") from error


def _make(routes: bool, ipv6: bool, watched: tuple[str, ...]) -> Namespace:
    """In a thread that goes back: a namespace belongs to a thread, and Trio keeps its threads."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        try:
            settings = _SETTINGS | (_ROUTES if routes else {})
            settings |= {"net/ipv6/conf/all/forwarding": "1"} if routes and ipv6 else {}
            settings |= {} if ipv6 else {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
            for name, value in settings.items():
                _set(name, value)
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            return Namespace(fd, {name: _open_watched(name) for name in watched})
        finally:
            syscalls.setns(before, syscalls.CLONE_NEWNET)
    finally:
        os.close(before)


def _set(name: str, value: str) -> None:
    """A kernel without IPv6, or one that doesn't know a setting yet, has nothing to set."""
    path = Path("/proc/sys", name)
    if path.exists():
        path.write_text(value)


def forward(*, is_open: bool, ipv6: bool) -> None:
    """Whether the router that this is called in lets anything through."""
    _set("net/ipv4/ip_forward", str(int(is_open)))
    if ipv6:
        _set("net/ipv6/conf/all/forwarding", str(int(is_open)))


def _open_watched(name: str) -> int:
    try:
        return os.open(f"/proc/thread-self/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # of IPv6, in a kernel without it
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


async def run(command: Sequence[str], text: str = "", *, within: Namespace | None = None) -> str:
    """Its standard output; `text` goes to its standard input. Raises `NetworkFailed`. What it does is logged, to be pasted."""
    if within is not None:
        command = ["nsenter", f"--net={within.path}", *command]
    log.debug("network command", command=shlex.join(command), stdin=text)
    with trio.move_on_after(_COMMAND_SECONDS):
        try:
            done = await trio.run_process(
                list(command),
                stdin=text.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            )
        except (OSError, ExceptionGroup) as error:
            if isinstance(error, ExceptionGroup) and error.split(OSError)[1] is not None:
                raise  # not of a process that couldn't be started, such as for want of descriptors
            raise NetworkFailed(f"{command[0]}: {error}") from error
        if done.returncode != 0:
            said = bytes(done.stderr or b"").decode(errors="replace").strip().splitlines()
            raise NetworkFailed(f"{shlex.join(command)}: {said[0] if said else f'status {done.returncode}'}")
        return bytes(done.stdout or b"").decode(errors="replace")
    raise NetworkFailed(f"{shlex.join(command)}: it didn't end within {_COMMAND_SECONDS} s")


IP_BATCH = ("ip", "-batch", "-")
NFT_FILE = ("nft", "-f", "-")


async def call(within: Namespace, function: Callable[[], T]) -> T:
    """What the function returns when it is called in the namespace: a socket that it opens stays there."""
    return await trio.to_thread.run_sync(_call, within, function)


def _call(within: Namespace, function: Callable[[], T]) -> T:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(within.fd, syscalls.CLONE_NEWNET)
        try:
            return function()
        finally:
            syscalls.setns(before, syscalls.CLONE_NEWNET)
    finally:
        os.close(before)
