"""SOCK_SEQPACKET messages with descriptors and credentials, for Trio."""

import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

import trio

_CREDENTIALS = struct.Struct("iII")
_MAX_FDS = 8
_SPACE = socket.CMSG_SPACE(_MAX_FDS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)


class Packet(NamedTuple):
    """`data` is empty at the end; `pid` is the sender's, or the one it vouches for, in our pid namespace."""

    data: bytes
    fds: list[int]
    pid: int | None


class BadPacket(ValueError):
    """Cut short by the kernel: what it held is closed."""


class DescriptorsLost(BadPacket):
    """Only its descriptors didn't arrive: this process has as many as it may have. `data` is whole."""

    def __init__(self, data: bytes) -> None:
        super().__init__("a packet's descriptors were lost: too many open files")
        self.data = data


async def receive(sock: trio.socket.SocketType, most: int) -> Packet:
    data, ancillary, flags, _ = await sock.recvmsg(most, _SPACE, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    pid = None
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(memoryview(content[: len(content) // 4 * 4]).cast("i"))
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(content)[0]
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        close_all(fds)
        raise BadPacket("a packet was cut short") if flags & socket.MSG_TRUNC else DescriptorsLost(data)
    return Packet(data, fds, pid)


async def send(sock: trio.socket.SocketType, data: bytes, fds: Sequence[int] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    await sock.sendmsg([data], rights)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
