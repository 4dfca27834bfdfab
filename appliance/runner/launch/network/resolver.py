"""The process that answers runs' questions for names: `codeactions dns`, a child without privileges and with a uid of its own.

It is given sockets that are bound already, and says on its standard output which addresses the names of NETWORK_ALLOW have: a
line a name, as often as they change. What it says is checked here: it has read what others wrote.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_network
from subprocess import PIPE
from typing import NamedTuple

import structlog
import trio

from appliance import openings, program
from appliance.openings import Range
from appliance.runner.launch.network.addresses import Plan
from appliance.runner.launch.network.namespaces import NetworkFailed

log = structlog.get_logger()

DNS_PORT = 53
_BACKLOG = 64
_AGAIN_SECONDS = 1.0
_MOST_LINE = 64 << 10
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

OnAddresses = Callable[[str, list[Range]], Awaitable[None]]


class Sockets(NamedTuple):
    udp: socket.socket
    tcp: socket.socket


def open_sockets(plan: Plan) -> Sockets:
    """On the gateway's address, for what comes by our device only: the host's other neighbours could reach the address too.

    Raises `NetworkFailed`.
    """
    opened = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(socket.AF_INET, kind)
            opened.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, plan.device.encode())
            sock.bind((str(plan.gateway), DNS_PORT))
        opened[1].listen(_BACKLOG)
    except OSError as error:
        for sock in opened:
            sock.close()
        raise NetworkFailed(f"{plan.gateway} port {DNS_PORT}: {error.strerror}") from error
    return Sockets(*opened)


async def keep(sockets: Sockets, uid: int, names: Sequence[str], on_addresses: OnAddresses) -> None:
    """Starts it, and again when it ends."""
    command = [*program.command("dns"), "--udp", str(sockets.udp.fileno())]
    command += ["--tcp", str(sockets.tcp.fileno()), "--uid", str(uid), *(word for name in names for word in ("--name", name))]
    while True:
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=PIPE,  # it ends with us: at the end of this
                stdout=PIPE,
                pass_fds=[sock.fileno() for sock in sockets],
                env=_ENVIRONMENT,
                start_new_session=True,
            )
            try:
                await _listen(process, on_addresses)
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                    for pipe in (process.stdin, process.stdout):
                        assert pipe is not None
                        await pipe.aclose()
            log.error("the name server has ended", status=process.returncode)
        except OSError as error:
            log.error("the name server can't be started", reason=str(error))
        await trio.sleep(_AGAIN_SECONDS)


async def _listen(process: trio.Process, on_addresses: OnAddresses) -> None:
    assert process.stdout is not None
    kept = b""
    async for data in process.stdout:
        *lines, kept = (kept + data).split(b"\n")
        if len(kept) > _MOST_LINE:
            log.error("the name server says what is no line")
            return
        for line in lines:
            name, *texts = line.decode("ascii", "replace").split()
            await on_addresses(name, _checked(texts))


def _checked(texts: Sequence[str]) -> list[Range]:
    found = []
    for text in texts:
        with suppress(ValueError):
            opened = ip_network(text)
            if opened.num_addresses == 1 and openings.is_routed(opened):
                found.append(opened)
    return found
