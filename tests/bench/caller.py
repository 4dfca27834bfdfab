"""A client that takes 0.04 ms of processor time a call (http.client: 0.07), since it shares them with the server."""

import socket
from types import TracebackType

from tests.appliance import Appliance

_READ_BYTES = 256 << 10


class Caller:
    """One connection, one call at a time."""

    def __init__(self, appliance: Appliance) -> None:
        connection = appliance.connect()
        connection.connect()
        self._socket: socket.socket = connection.sock
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    @staticmethod
    def request(code_id: str, body: bytes) -> bytes:
        head = f"POST /action/endpoint/{code_id} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def call(self, request: bytes) -> bytes:
        """The whole answer, which must have a Content-Length."""
        self._socket.sendall(request)
        answer = self._socket.recv(_READ_BYTES)
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._read()
        size = end + 4 + _length(answer[:end])
        while len(answer) < size:
            answer += self._read()
        return answer

    def _read(self) -> bytes:
        if not (data := self._socket.recv(_READ_BYTES)):
            raise ConnectionError("the server closed the connection within an answer")
        return data


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"no Content-Length: {head!r}")
