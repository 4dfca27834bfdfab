"""What Hypercorn 0.18 doesn't see to: a connection that fails must end alone, and one that was answered must stay in order.

Both were met while trying: an HTTP/2 request whose path isn't ASCII ended the program, since an exception of Hypercorn's own
protocol code reaches the nursery that all connections share; and an answer that was given before the request's body had arrived
left the connection open and deaf, since the end of the stream cancels the task that is about to close it. A third was met during
restarts: a connection whose request was on its way when the server was told to stop was closed without an answer.
"""

from typing import Any

import hypercorn.trio.run
import structlog
import trio
from hypercorn.trio.tcp_server import TCPServer

from appliance.api.middleware import App, Message, Send

# How long a client may go on sending what nobody wants before it is cut off, and may miss the answer to it.
LINGER_S = 5.0
# How long, once it is told to stop, the server waits for the request of a connection that was open then: a client that has just
# connected is about to send one, and would be told nothing but that its connection ended.
LAST_REQUEST_S = 0.5

log = structlog.get_logger()


class ContainedServer(TCPServer):
    """One connection; what it can't handle ends it alone."""

    async def run(self) -> None:
        try:
            await super().run()
        except* Exception as failures:  # noqa: BLE001 -- whatever it is, it is this connection's
            log.warning("connection failed", reason=repr(failures.exceptions[0]))

    async def _idle_timeout(self) -> None:
        """Is cancelled by a request: Hypercorn's own, but for the pause after it was told to stop."""
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
            await trio.sleep(LAST_REQUEST_S)
        with trio.CancelScope(shield=True):
            await self._initiate_server_close()


def contain_failures() -> None:
    """Before Hypercorn's `serve` begins, which has no other way to be told."""
    hypercorn.trio.run.TCPServer = ContainedServer  # type: ignore[attr-defined]


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
                with trio.move_on_after(LINGER_S):
                    await arrived.wait()
                has_ended = True
            await send(message)

        await self._app(scope, receiving, sending)
