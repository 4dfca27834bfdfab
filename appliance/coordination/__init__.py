"""Rate limits and locks, opened ready to use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from appliance.coordination.interface import Coordination


@asynccontextmanager
async def open_coordination(max_requests: int, window_s: float) -> AsyncIterator[Coordination]:
    """`max_requests` of one code in `window_s` seconds are let through."""
    from appliance.coordination.local import LocalCoordination

    yield LocalCoordination(max_requests, window_s)
