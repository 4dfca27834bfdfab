"""What Hypercorn 0.18 doesn't see to: a connection that fails must end alone, and one that was answered must stay in order.

Both were met while trying: an HTTP/2 request whose path isn't ASCII ended the program, since an exception of Hypercorn's own
protocol code reaches the nursery that all connections share; and an answer that was given before the request's body had arrived
left the connection open and deaf, since the end of the stream cancels the task that is about to close it. A third was met during
restarts: a connection whose request was on its way when the server was told to stop was closed without an answer.

And what costs more than the rest of an answer: a task for each pause between requests, a packet for each part of an answer.
"""

import math
from collections.abc import Callable
from typing import Any

import hypercorn.trio.run
import structlog
import trio
from hypercorn.events import Event, RawData
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from quart_trio.asgi import TrioASGIHTTPConnection

from appliance.api.middleware import App, Message, Send

# How long a client may go on sending what nobody wants before it is cut off, and may miss the answer to it.
LINGER_S = 5.0
# How long, once it is told to stop, the server waits for the request of a connection that was open then: a client that has just
# connected is about to send one, and would be told nothing but that its connection ended.
LAST_REQUEST_S = 0.5

log = structlog.get_logger()


class _Pauses:
    """How long a connection may wait for its next request: Hypercorn's single task, which it starts anew for each pause, as one
    task whose deadline is moved."""

    def __init__(self, server: "ContainedServer") -> None:
        self._server = server
        self._pause: trio.CancelScope | None = None
        self._most_s = float(server.config.keep_alive_timeout)
        self._is_idle = False
        self._has_ended = False

    async def restart(self, task_group: TaskGroup, action: Callable[..., object]) -> None:
        self._is_idle = True
        if self._pause is None:
            self._pause = trio.CancelScope()
            task_group.spawn(self._watch, self._pause)
        self._pause.deadline = trio.current_time() + self._most_s

    def end(self) -> None:
        """There is no next request: the client has said its last, and the connection ends with the answer to that."""
        self._has_ended = True
        if self._pause is not None:
            self._pause.cancel()

    async def stop(self) -> None:
        self._is_idle = False
        if self._pause is not None:
            self._pause.deadline = math.inf

    async def _watch(self, pause: trio.CancelScope) -> None:
        with pause:
            await self._server.context.terminated.wait()
            self._most_s = LAST_REQUEST_S
            if self._is_idle:
                pause.deadline = trio.current_time() + self._most_s
            await trio.sleep_forever()
        if not self._has_ended:
            with trio.CancelScope(shield=True):
                await self._server._initiate_server_close()


class ContainedServer(TCPServer):
    """One connection; what it can't handle ends it alone."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pauses = _Pauses(self)
        self.idle_task = self._pauses  # type: ignore[assignment]
        self._head = b""  # of an answer, until its body comes

    async def run(self) -> None:
        try:
            await super().run()
        except* Exception as failures:  # noqa: BLE001 -- whatever it is, it is this connection's
            log.warning("connection failed", reason=repr(failures.exceptions[0]))

    async def _read_data(self) -> None:
        await super()._read_data()
        self._pauses.end()

    async def protocol_send(self, event: Event) -> None:
        """An answer's head goes with its body, in one packet, where it says how long that is: then the body follows at once, or,
        where there is none (HEAD), the end, which comes as no data."""
        if isinstance(event, RawData):
            data, self._head = self._head + event.data, b""
            if event.data.startswith(b"HTTP/1.") and b"\r\ncontent-length:" in event.data.lower():
                self._head = data
                return
            if not data:
                return
            event = RawData(data=data)
        await super().protocol_send(event)


def contain_failures() -> None:
    """Before Hypercorn's `serve` begins, which has no other way to be told."""
    hypercorn.trio.run.TCPServer = ContainedServer  # type: ignore[assignment, attr-defined]


class Connection(TrioASGIHTTPConnection):
    """Quart's, which makes a task of the request beside the one that listens for the client: this is the request's already."""

    async def __call__(self, receive: Any, send: Send) -> None:
        request = self._create_request_from_scope(send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.handle_messages, nursery, request, receive)
            await self.handle_request(nursery, request, send)


class Lingering:
    """The answer ends only when the request has: then the connection can take the next one, or be closed without a reset."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = trio.Event()
        has_ended = False

        async def receiving() -> Message:
            message: Message = await receive()
            if message["type"] == "http.disconnect" and has_ended:
                # The answer's own end, not the client's: the app would cancel itself in the middle of sending it.
                await trio.sleep_forever()
            if not message.get("more_body", False):
                arrived.set()
            return message

        async def sending(message: Message) -> None:
            nonlocal has_ended
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                if not arrived.is_set():
                    with trio.move_on_after(LINGER_S):
                        await arrived.wait()
                has_ended = True
            await send(message)

        await self._app(scope, receiving, sending)
