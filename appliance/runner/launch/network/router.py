"""Makes the network of a launcher, keeps it, and takes it down. The package's text says how it is arranged."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from appliance import openings
from appliance.openings import Opening, Range
from appliance.runner.launch.network import conntrack, forwarding, namespaces, resolver, rules, table
from appliance.runner.launch.network.addresses import INSTANCES, Plan
from appliance.runner.launch.network.namespaces import IP_BATCH, NFT_FILE, Namespace, NetworkFailed
from appliance.runner.launch.network.rules import Opened
from appliance.runner.launch.network.slots import Places
from appliance.runner.launch.network.table import Table

log = structlog.get_logger()

_TOOLS = ("ip", "nft", "nsenter", "sh")
_LOOK_SECONDS = 10.0  # for interfaces that have come
_SHARE = 2  # of the host's table of connections, the part that all runs together may have: one in so many
_FEWEST = 1024


class Network:
    """Where runs with network `internet` are. `places` has each slot's namespace, `nameserver` is whom they ask for names."""

    def __init__(self, plan: Plan, places: Places, router: Namespace, allowed: Sequence[Opening]) -> None:
        self.places = places
        self.nameserver = str(plan.gateway)
        self._router = router
        self._named = [one for one in allowed if isinstance(one.where, str)]
        self._addresses: dict[str, list[Range]] = {}

    @property
    def names(self) -> list[str]:
        return sorted({str(one.where) for one in self._named})

    async def open_named(self, name: str, addresses: list[Range]) -> None:
        """From now on the name stands for these."""
        self._addresses[name] = addresses
        opened = [Opened(each, one.port) for one in self._named for each in self._addresses.get(str(one.where), [])]
        text = rules.open_ranges("named", rules.without_overlaps(opened))
        log.info("NETWORK_ALLOW opened", name=name, addresses=[str(each.network_address) for each in addresses])
        await namespaces.run(NFT_FILE, text, within=self._router)


class Routed(NamedTuple):
    """A router that is connected to the host, and what holds it. No slot is connected yet."""

    plan: Plan
    router: Namespace
    table: Table
    forwarding: forwarding.Forwarding
    ipv6: bool
    no_ipv6: str


@asynccontextmanager
async def routed(allowed: Sequence[Opening]) -> AsyncIterator[Routed]:
    """Until the end of the block, which leaves nothing. Raises `NetworkFailed`."""
    async with AsyncExitStack() as stack:
        _check_host()
        no_ipv6 = forwarding.why_no_ipv6()
        ipv6 = not no_ipv6
        router = stack.enter_context(await namespaces.make(routes=True, ipv6=ipv6))
        plan = await _take_device(router)
        held = forwarding.Forwarding()
        stack.callback(held.close)
        host_table = await stack.enter_async_context(table.owned(plan))
        await _make_table(host_table, plan, ipv6=ipv6)
        stack.push_async_callback(_remove_device, plan)
        await namespaces.run(NFT_FILE, rules.router_table(plan, _ranges(allowed)), within=router)
        await namespaces.run(IP_BATCH, rules.host_addresses(plan, ipv6=ipv6))
        await namespaces.run(IP_BATCH, rules.router_addresses(plan, ipv6=ipv6), within=router)
        if ipv6:
            held.open_ipv6()
        await _open_uplinks(held, host_table, plan)
        yield Routed(plan, router, host_table, held, ipv6, no_ipv6)


@asynccontextmanager
async def opened(allow: Sequence[str], name_server_uid: int) -> AsyncIterator[Network]:
    """The network, until the end of the block. `allow`: NETWORK_ALLOW; `name_server_uid`: its own. Raises `NetworkFailed`."""
    allowed = [openings.parse(text) for text in allow]
    async with AsyncExitStack() as stack:
        plan, router, host_table, held, ipv6, no_ipv6 = await stack.enter_async_context(routed(allowed))
        sockets = resolver.open_sockets(plan)
        trackers = (conntrack.open_socket(), await namespaces.call(router, conntrack.open_socket))
        for sock in (*sockets, *trackers):
            stack.enter_context(sock)
        places = Places(plan, router, trackers, ipv6=ipv6)
        stack.callback(places.close)
        network = Network(plan, places, router, allowed)
        log.info("runs have a network of their own", device=plan.device, table=plan.table, ipv6=ipv6, no_ipv6=no_ipv6)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolver.keep, sockets, name_server_uid, network.names, network.open_named, name="name server")
            nursery.start_soon(_watch_uplinks, held, host_table, plan, name="uplinks")
            nursery.start_soon(_keep_table, Routed(plan, router, host_table, held, ipv6, no_ipv6), name="the host's table")
            yield network
            nursery.cancel_scope.cancel()


def _check_host() -> None:
    if os.geteuid() != 0:
        raise NetworkFailed("only root can make one")
    missing = [tool for tool in _TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        raise NetworkFailed(f"this host has no {', '.join(missing)}: packages nftables, iproute2 and util-linux have them")


async def _take_device(router: Namespace) -> Plan:
    """The first number whose device nobody has: the kernel gives it to one launcher only. It goes with the router's namespace."""
    for instance in range(INSTANCES):
        plan = Plan(instance)
        try:
            await namespaces.run(IP_BATCH, rules.host_device(plan, router.path))
        except NetworkFailed as failed:
            if "File exists" not in str(failed):
                raise
            continue
        return plan
    raise NetworkFailed(f"{INSTANCES} launchers have one on this host")


async def _remove_device(plan: Plan) -> None:
    with trio.CancelScope(shield=True):
        try:
            await namespaces.run(("ip", "link", "delete", plan.device))
        except NetworkFailed as failed:
            log.warning("a device can't be removed", device=plan.device, reason=str(failed))


def _ranges(allowed: Sequence[Opening]) -> list[Opened]:
    return rules.without_overlaps(Opened(one.where, one.port) for one in allowed if not isinstance(one.where, str))


def _most_connections() -> int:
    try:
        most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    except FileNotFoundError:  # a module that is loaded with the first table that needs it
        return _FEWEST
    return max(most // _SHARE, _FEWEST)


async def _make_table(host_table: Table, plan: Plan, *, ipv6: bool) -> None:
    await host_table.make(rules.host_table(plan, ipv6=ipv6, most_connections=_most_connections()))


async def _keep_table(routed: Routed) -> None:
    """Without the table a run would reach the host: where it is lost the router lets nothing through, from the moment that we
    hear of it until the table is there again. What fails here ends the launcher, and with it every run."""
    plan, router, host_table, held, ipv6, _ = routed
    while True:
        await host_table.ended()
        log.error("the host's table is lost", table=plan.table)
        await namespaces.call(router, partial(namespaces.forward, is_open=False, ipv6=ipv6))
        await host_table.renew()
        await _make_table(host_table, plan, ipv6=ipv6)
        await _open_uplinks(held, host_table, plan)
        await namespaces.call(router, partial(namespaces.forward, is_open=True, ipv6=ipv6))
        log.info("the host's table is there again", table=plan.table)


async def _open_uplinks(held: forwarding.Forwarding, host_table: Table, plan: Plan) -> None:
    """Where the host routes already, there is nothing to open, nor to close for others."""
    forwarding.set_own(plan.device)
    if held.is_open():
        await host_table.say(rules.forget_uplinks(plan))
        return
    devices = {device for device in forwarding.uplinks() if not device.startswith("codeactions") and held.open_device(device)}
    if devices:
        await host_table.say(rules.open_uplinks(plan, sorted(devices)))


async def _watch_uplinks(held: forwarding.Forwarding, host_table: Table, plan: Plan) -> None:
    known = (held.is_open(), forwarding.uplinks())
    while True:
        await trio.sleep(_LOOK_SECONDS)
        try:
            now = (held.is_open(), forwarding.uplinks())
            if now != known:
                await _open_uplinks(held, host_table, plan)
                known = now
        except (OSError, NetworkFailed) as error:  # too many open files: the next look sees what has changed
            log.error("the host's uplinks can't be looked at", reason=str(error))
