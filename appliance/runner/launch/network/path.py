"""Whether the host lets a run's packets out: a packet is sent, and the kernel is asked which rules it met.

A table of another program's (Docker's, firewalld's) may drop what the host forwards for us; an accept of ours can't overrule it.
"""

import re
import socket
from subprocess import DEVNULL, PIPE

import trio

from appliance.runner.launch.network import namespaces, router, rules
from appliance.runner.launch.network.namespaces import NetworkFailed
from appliance.runner.launch.network.router import Routed

_SECONDS = 5.0
_EVERY_SECONDS = 0.1
_SOMEWHERE = ("192.0.2.1", 9)  # for documentation, and the port that discards: nobody is asked to answer
_HOPS = 2  # the host is the first: at the next one the packet ends
_TRACE = re.compile(rb"trace id \w+ (\w+ \S+ \S+) (?:(rule .*) \(verdict (\w+).*\)|(policy) (\w+))")


async def probe_path() -> str | None:
    """None: a packet goes through. Else what drops it: the table, chain and rule of nftables, or what there is to say of it.

    Makes a router of its own for it, which is gone when this returns; needs root. Raises `NetworkFailed` where none can be made.
    """
    async with router.routed([]) as routed:
        await routed.table.say(rules.trace_probe(routed.plan, _SOMEWHERE[1]))
        monitor = await _monitor()
        seen = _Seen(f"inet {routed.plan.table} postrouting")
        try:
            with trio.move_on_after(_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_send, routed)
                    await seen.read(monitor)
                    nursery.cancel_scope.cancel()
        finally:
            monitor.kill()
            with trio.CancelScope(shield=True):
                await monitor.wait()
                assert monitor.stdout is not None
                await monitor.stdout.aclose()
        return seen.verdict()


async def _monitor() -> trio.Process:
    try:
        return await trio.lowlevel.open_process(["nft", "monitor", "trace"], stdin=DEVNULL, stdout=PIPE)
    except OSError as error:
        raise NetworkFailed(f"nft: {error.strerror}") from error


async def _send(routed: Routed) -> None:
    """Again and again: nobody says when the monitor has begun. Each from a port of its own: a connection of its own."""
    while True:
        await namespaces.call(routed.router, _send_one)
        await trio.sleep(_EVERY_SECONDS)


def _send_one() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _HOPS)
        sock.sendto(b"codeactions probe", _SOMEWHERE)


class _Seen:
    """What the kernel has told of our packets."""

    def __init__(self, way_out: str) -> None:
        self._way_out = way_out
        self._went_out = False
        self._dropped = ""
        self._last = ""

    async def read(self, monitor: trio.Process) -> None:
        """Until one has gone out or has been dropped."""
        assert monitor.stdout is not None
        kept = b""
        async for data in monitor.stdout:
            *lines, kept = (kept + data).split(b"\n")
            for line in lines:
                self._take(line)
                if self._went_out or self._dropped:
                    return

    def _take(self, line: bytes) -> None:
        found = _TRACE.match(line)
        if found is None:
            return
        where, rule, verdict, policy, default = [(part or b"").decode(errors="replace") for part in found.groups()]
        self._last = where
        if where == self._way_out:
            self._went_out = True
        elif "drop" in (verdict, default):
            self._dropped = f"{where}: {rule or f'{policy} {default}'}"

    def verdict(self) -> str | None:
        if self._went_out:
            return None
        if self._dropped:
            return self._dropped
        if not self._last:
            return "no packet arrives at the host's rules"
        return f"what nftables doesn't show, after {self._last}: a rule of iptables-legacy, or no route to public addresses"
