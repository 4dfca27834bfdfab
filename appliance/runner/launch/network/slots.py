"""The part of the network that is a slot's: a namespace with one neighbour, made at first use and kept for its next runs."""

import socket
from contextlib import suppress
from typing import NamedTuple

import structlog
import trio

from appliance.runner.launch.network import conntrack, namespaces, rules
from appliance.runner.launch.network.addresses import Plan
from appliance.runner.launch.network.namespaces import IP_BATCH, Namespace, NetworkFailed

log = structlog.get_logger()

_WATCHED = ("dev", "tcp", "tcp6")


class _Place(NamedTuple):
    """`sent`: its packets when the last run was given it."""

    namespace: Namespace
    sent: int


class Places:
    """Of each slot in use; only who holds a slot asks for its place."""

    def __init__(self, plan: Plan, router: Namespace, trackers: tuple[socket.socket, ...], *, ipv6: bool) -> None:
        self._plan = plan
        self._router = router
        self._trackers = trackers  # of the host and of the router
        self._ipv6 = ipv6
        self._places: dict[int, _Place] = {}
        self._turn = trio.Lock()  # of the trackers: one conversation at a time

    async def of(self, slot: int) -> int:
        """A descriptor of the slot's namespace, which stays ours. Raises `NetworkFailed`."""
        if slot not in self._places:
            with trio.CancelScope(shield=True):  # half of one would be in the way of the next
                namespace = await self._make(slot)
                self._places[slot] = _Place(namespace, _sent(namespace))
        return self._places[slot].namespace.fd

    async def _make(self, slot: int) -> Namespace:
        namespace = await namespaces.make(routes=False, ipv6=self._ipv6, watched=_WATCHED)
        try:
            text = rules.slot_link(self._plan, slot, namespace.path, ipv6=self._ipv6)
            await namespaces.run(IP_BATCH, text, within=self._router)
            await namespaces.run(IP_BATCH, rules.slot_addresses(self._plan, slot, ipv6=self._ipv6), within=namespace)
        except NetworkFailed:
            namespace.close()
            raise
        return namespace

    async def clean(self, slot: int) -> None:
        """When nothing of a run lives any more: what it has left in the kernel goes, before the slot is another run's.

        Nearly free for a run that has sent nothing. A connection that the kernel still closes by itself is in nobody's hands, but
        could be seen: then the next run gets a new namespace.
        """
        place = self._places.get(slot)
        if place is None or (sent := _sent(place.namespace)) == place.sent:
            return
        self._places[slot] = place._replace(sent=sent)
        try:
            async with self._turn:
                await trio.to_thread.run_sync(self._forget, slot)
            if _has_connections(place.namespace):
                await self._remove(slot)
        except (OSError, NetworkFailed) as error:
            log.error("a slot's network can't be cleaned", slot=slot, reason=str(error))
            with suppress(NetworkFailed):  # it may be gone already
                await namespaces.run(IP_BATCH, rules.remove_slot(slot), within=self._router)
            if slot in self._places:
                self._drop(slot)

    def _forget(self, slot: int) -> None:
        link = self._plan.slot(slot)
        for tracker in self._trackers:
            conntrack.forget(tracker, link.far)
            if self._ipv6:
                conntrack.forget(tracker, link.far_v6)

    async def _remove(self, slot: int) -> None:
        with trio.CancelScope(shield=True):
            await namespaces.run(IP_BATCH, rules.remove_slot(slot), within=self._router)
            self._drop(slot)

    def _drop(self, slot: int) -> None:
        self._places.pop(slot).namespace.close()

    def close(self) -> None:
        for slot in list(self._places):
            self._drop(slot)


def _sent(namespace: Namespace) -> int:
    """Packets, by the namespace's own counters: proc_pid_net(5), `dev`."""
    for line in namespace.read("dev").splitlines():
        name, found, figures = line.partition(":")
        if found and name.strip() == "eth0":
            return int(figures.split()[9])
    return 0


def _has_connections(namespace: Namespace) -> bool:
    """Each file has a line of headings."""
    return any(len(namespace.read(name).splitlines()) > 1 for name in ("tcp", "tcp6"))
