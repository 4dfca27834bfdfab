"""What must be agreed between callers, and between hosts where there are several: rate limits and locks.

`local` keeps this within one process.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Limiter(Protocol):
    async def hit(self, key: str) -> None:
        """Counts one request of `key`; raises `TooMany` when the window's maximum is passed. Keys are bounded in number:
        the one that has been idle for longest is forgotten first."""
        ...


class Locks(Protocol):
    def try_hold(self, name: str) -> AbstractAsyncContextManager[bool]:
        """Holds `name` inside the block; yields False at once, and holds nothing, when somebody else has it.

        A holder that died loses the lock within a minute.
        """
        ...


class Coordination(Protocol):
    @property
    def limiter(self) -> Limiter: ...
    @property
    def locks(self) -> Locks: ...
