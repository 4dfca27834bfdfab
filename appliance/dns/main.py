"""`codeactions dns`: gives up what it was started with, then answers until its standard input ends."""

import os
import resource
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple

import structlog
import trio

from appliance.dns import names
from appliance.dns.server import Server
from appliance.dns.upstream import Upstream
from appliance.runner.sandbox import syscalls

log = structlog.get_logger()

_OPEN_FILES = 2048  # a question has one, a connection two
_MEMORY = 512 << 20


class DnsOptions(NamedTuple):
    """`udp`, `tcp`: bound sockets, inherited; `names`: what NETWORK_ALLOW names."""

    udp: int
    tcp: int
    uid: int
    names: Sequence[str]


def main(options: DnsOptions) -> int:
    _drop(options.uid)
    trio.run(_serve, options)
    return 0


def _drop(uid: int) -> None:
    """For good, and no more than it needs of anything. Everything is imported: where root can read, this uid often can't."""
    os.chdir("/")
    for kind, most in ((resource.RLIMIT_NOFILE, _OPEN_FILES), (resource.RLIMIT_DATA, _MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    if os.geteuid() == 0:
        syscalls.drop_bounding_set()
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        syscalls.drop_capabilities()
    syscalls.forbid_new_privileges()


async def _serve(options: DnsOptions) -> None:
    udp = trio.socket.from_stdlib_socket(socket.socket(fileno=options.udp))
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=options.tcp)))
    upstream = Upstream()
    server = Server(upstream)
    log.debug("answering runs", servers=upstream.servers())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_udp, udp, name="udp")
        nursery.start_soon(server.serve_tcp, listener, name="tcp")
        for name in options.names:
            nursery.start_soon(names.tell, name, sys.stdout.fileno(), name=f"name {name}")
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as launcher:
            while await launcher.receive_some():
                pass
        nursery.cancel_scope.cancel()
