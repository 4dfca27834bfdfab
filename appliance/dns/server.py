"""Answers runs over UDP and TCP, within bounds."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import dns.rcode
import structlog
import trio

from appliance.dns import messages
from appliance.dns.messages import Question, Unreadable
from appliance.dns.upstream import NoAnswer, Upstream, receive_message

log = structlog.get_logger()

_OF_A_SLOT, _IN_ALL = 32, 512  # questions that wait for their answer
_CONNECTIONS_OF_A_SLOT, _CONNECTIONS_IN_ALL = 8, 128
_IDLE_SECONDS = 10.0  # of a connection
_AGAIN_SECONDS = 0.1


class _Places:
    """So many at once, of a source and in all."""

    def __init__(self, of_one: int, in_all: int) -> None:
        self._of_one = of_one
        self._in_all = in_all
        self._taken: Counter[str] = Counter()

    @asynccontextmanager
    async def one(self, source: str) -> AsyncIterator[bool]:
        """Whether there was a place; it is held until the end of the block."""
        if self._taken[source] >= self._of_one or self._taken.total() >= self._in_all:
            yield False
            return
        self._taken[source] += 1
        try:
            yield True
        finally:
            self._taken[source] -= 1
            if not self._taken[source]:
                del self._taken[source]


class Server:
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._questions = _Places(_OF_A_SLOT, _IN_ALL)
        self._connections = _Places(_CONNECTIONS_OF_A_SLOT, _CONNECTIONS_IN_ALL)

    async def serve_udp(self, sock: trio.socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    data, address = await sock.recvfrom(messages.MOST_TCP)
                except OSError as error:  # an asker's host says that it has gone, or our memory is short
                    log.info("questions can't be received", reason=str(error))
                    await trio.sleep(_AGAIN_SECONDS)
                    continue
                nursery.start_soon(self._answer_udp, sock, data, address, name="question")

    async def _answer_udp(self, sock: trio.socket.SocketType, data: bytes, address: tuple[str, int]) -> None:
        with suppress(Unreadable, OSError):
            question = messages.read_question(data)
            answer = await self._answer(question, address[0], whole=False)
            if answer is not None:
                await sock.sendto(messages.cut(question, answer), address)

    async def serve_tcp(self, listener: trio.SocketListener) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    log.info("connections can't be accepted", reason=str(error))
                    await trio.sleep(_AGAIN_SECONDS)
                    continue
                nursery.start_soon(self._converse, stream, name="connection")

    async def _converse(self, stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(Unreadable, OSError, trio.BrokenResourceError):
                source = stream.socket.getpeername()[0]
                async with self._connections.one(source) as admitted:
                    while admitted and await self._answer_tcp(stream, source):
                        pass

    async def _answer_tcp(self, stream: trio.SocketStream, source: str) -> bool:
        """Whether there may be another one."""
        with trio.move_on_after(_IDLE_SECONDS):
            data = await receive_message(stream)
            if data is None:
                return False
            answer = await self._answer(messages.read_question(data), source, whole=True)
            if answer is not None:
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)
                return True
        return False

    async def _answer(self, question: Question, source: str, *, whole: bool) -> bytes | None:
        """None: too many of them at once, and the asker tries again."""
        if (refusal := messages.refusal(question)) is not None:
            return refusal
        async with self._questions.one(source) as admitted:
            if not admitted:
                return None
            try:
                return await self._upstream.answer(question, whole=whole)
            except NoAnswer:
                return messages.answer_with(question, dns.rcode.SERVFAIL)
