"""A connection that fails must not take the others with it.

Hypercorn lets an exception out of its own protocol code reach the nursery that all connections share, and with it the program:
an HTTP/2 request whose path isn't ASCII was enough (hypercorn 0.18, `protocol/http_stream.py`, tried).
"""

import hypercorn.trio.run
import structlog
from hypercorn.trio.tcp_server import TCPServer

log = structlog.get_logger()


class ContainedServer(TCPServer):
    """One connection; what it can't handle ends it alone."""

    async def run(self) -> None:
        try:
            await super().run()
        except* Exception as failures:  # noqa: BLE001 -- whatever it is, it is this connection's
            log.warning("connection failed", error=repr(failures.exceptions[0]))


def contain_failures() -> None:
    """To be called before Hypercorn's `serve`, which has no other way to be told."""
    hypercorn.trio.run.TCPServer = ContainedServer  # type: ignore[attr-defined]
