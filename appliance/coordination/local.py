"""Limits and locks within this process: what an appliance without Redis agrees on, since there is nobody else."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from appliance.errors import TooMany

# Anybody can call ids that don't exist, so the table must not grow with them; 10 000 windows are about 2 MB.
MAX_KEYS = 10_000


@dataclass(slots=True)
class Window:
    ends: float
    count: int


class LocalLimiter:
    """A fixed window a key, which begins with the key's first request."""

    def __init__(self, max_requests: int, window_s: float) -> None:
        self._max_requests = max_requests
        self._window_s = window_s
        self._windows: OrderedDict[str, Window] = OrderedDict()

    async def hit(self, key: str) -> None:
        window = self._window_of(key)
        window.count += 1
        if window.count > self._max_requests:
            raise TooMany(
                f"rate limit exceeded: {self._max_requests} requests in {self._window_s:g} s",
                retry_after=max(0.0, window.ends - trio.current_time()),
            )

    def _window_of(self, key: str) -> Window:
        now = trio.current_time()
        window = self._windows.get(key)
        if window is None or window.ends <= now:
            window = self._windows[key] = Window(now + self._window_s, 0)
        self._windows.move_to_end(key)
        if len(self._windows) > MAX_KEYS:
            self._windows.popitem(last=False)
        return window


class LocalLocks:
    """A holder that dies takes the process, and so the lock, with it."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @asynccontextmanager
    async def try_hold(self, name: str) -> AsyncIterator[bool]:
        if name in self._held:
            yield False
            return
        self._held.add(name)
        try:
            yield True
        finally:
            self._held.discard(name)


class LocalCoordination:
    def __init__(self, max_requests: int, window_s: float) -> None:
        self.limiter = LocalLimiter(max_requests, window_s)
        self.locks = LocalLocks()
