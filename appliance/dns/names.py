"""The names of NETWORK_ALLOW, looked up again and again for the launcher: by the host's own way, /etc/hosts and all."""

import os
import socket

import structlog
import trio

log = structlog.get_logger()

_EVERY_SECONDS = 30.0  # getaddrinfo(3) doesn't tell how long an answer holds
_KEPT_SECONDS = 3600.0  # a name of many addresses is answered with some of them at a time


async def tell(name: str, fd: int) -> None:
    """Writes a line to `fd`, the name and its addresses, whenever they change. An address goes an hour after it was last seen."""
    seen: dict[str, float] = {}
    told: list[str] = []
    while True:
        now = trio.current_time()
        try:
            found = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            seen |= {str(address[0]): now for _, _, _, _, address in found}
        except OSError as error:
            log.warning("a name of NETWORK_ALLOW can't be looked up", name=name, reason=str(error))
        seen = {address: at for address, at in seen.items() if now - at < _KEPT_SECONDS}
        if sorted(seen) != told:
            told = sorted(seen)
            os.write(fd, f"{name} {' '.join(told)}\n".encode())
        await trio.sleep(_EVERY_SECONDS)
