"""The host's own name servers: /etc/resolv.conf as it is now, and one question to them."""

import socket
from pathlib import Path

import structlog
import trio

from appliance.dns import messages
from appliance.dns.messages import Question

log = structlog.get_logger()

_RESOLV_CONF = Path("/etc/resolv.conf")
_MOST_SERVERS = 3  # resolv.conf(5)
_PORT = 53
_TRY_SECONDS = 2.0
_ROUNDS = 2


class NoAnswer(Exception):
    """Of none of them, within the time that they are given."""


class Upstream:
    """Asks the name servers one after another, and again."""

    def __init__(self, path: Path = _RESOLV_CONF) -> None:
        self._path = path
        self._changed: tuple[int, int] | None = None
        self._servers: list[str] = []

    def servers(self) -> list[str]:
        """Read anew when the file is another; without one there is a name server on this host, by resolv.conf(5)."""
        try:
            status = self._path.stat()
            changed = (status.st_ino, status.st_mtime_ns)
            if changed != self._changed:
                words = [line.split() for line in self._path.read_text(errors="replace").splitlines()]
                self._servers = [fields[1] for fields in words if len(fields) > 1 and fields[0] == "nameserver"][:_MOST_SERVERS]
                self._changed = changed
        except OSError as error:
            log.warning("resolv.conf can't be read", reason=str(error))
        return self._servers or ["127.0.0.1"]

    async def answer(self, question: Question, *, whole: bool) -> bytes:
        """With the asker's id. `whole`: never truncated, since it goes out by TCP. Raises `NoAnswer`."""
        for _ in range(_ROUNDS):
            for server in self.servers():
                with trio.move_on_after(_TRY_SECONDS):
                    try:
                        answer = await _by_udp(server, question)
                        if whole and messages.is_truncated(answer):
                            answer = await _by_tcp(server, question)
                        return messages.pass_on(question, answer)
                    except (OSError, ValueError):
                        continue  # not there, or not speaking: the next one
        raise NoAnswer


async def _by_udp(server: str, question: Question) -> bytes:
    ours, data = messages.ask_on(question)
    with await _connected(server, socket.SOCK_DGRAM) as sock:
        await sock.send(data)
        while True:  # a wrong answer is somebody's try to be first: the right one may still come
            answer = await sock.recv(messages.MOST_TCP)
            if messages.is_answer(ours, answer):
                return answer


async def _by_tcp(server: str, question: Question) -> bytes:
    ours, data = messages.ask_on(question)
    with await _connected(server, socket.SOCK_STREAM) as sock:
        stream = trio.SocketStream(sock)
        await stream.send_all(len(data).to_bytes(2, "big") + data)
        answer = await receive_message(stream)
    if answer is None or not messages.is_answer(ours, answer):
        raise ValueError("no answer to what was asked")
    return answer


async def _connected(server: str, kind: socket.SocketKind) -> trio.socket.SocketType:
    """A socket of its own, so a port of its own: the kernel takes answers from that server only."""
    family, _, _, _, address = (await trio.socket.getaddrinfo(server, _PORT, type=kind, flags=socket.AI_NUMERICHOST))[0]
    sock = trio.socket.socket(family, kind)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


async def receive_message(stream: trio.SocketStream) -> bytes | None:
    """One message of DNS over TCP; None at the end."""
    length = await _exactly(stream, 2)
    return None if length is None else await _exactly(stream, int.from_bytes(length, "big"))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            return None
        data += more
    return data
