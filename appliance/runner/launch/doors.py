"""The launcher's door: who may connect to its socket, and that only one server does."""

import pwd
import socket
import struct
from contextlib import suppress

import structlog
import trio

from appliance.runner import packets, wire

log = structlog.get_logger()

USER = "codeactions"
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


async def accept_one(listener: trio.socket.SocketType, nursery: trio.Nursery) -> trio.socket.SocketType:
    """The first server that may have sandboxes; from then on every other is refused, by a task of `nursery`."""
    while True:
        server, _ = await listener.accept()
        if reason := _refusal(server):
            await _turn_away(server, reason)
            continue
        nursery.start_soon(_refuse_others, listener, _peer(server)[0], name="door")
        return server


async def _refuse_others(listener: trio.socket.SocketType, served: int) -> None:
    while True:
        other, _ = await listener.accept()
        await _turn_away(other, _refusal(other) or f"it serves process {served} already, and one server at a time")


async def _turn_away(server: trio.socket.SocketType, reason: str) -> None:
    log.warning("a server was refused", pid=_peer(server)[0], uid=_peer(server)[1], reason=reason)
    with server, suppress(OSError):
        await packets.send(server, wire.pack(wire.NotServed(reason=reason)))


def _refusal(server: trio.socket.SocketType) -> str:
    """Why the peer may not have sandboxes; empty when it may. The kernel's word, of the time it connected."""
    uid = _peer(server)[1]
    return "" if uid in _permitted() else f"the user {uid} is neither {USER} nor root"


def _permitted() -> set[int]:
    with suppress(KeyError):
        return {0, pwd.getpwnam(USER).pw_uid}
    return {0}


def _peer(server: trio.socket.SocketType) -> tuple[int, int]:
    """pid and uid"""
    pid, uid, _ = _CREDENTIALS.unpack(server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid
