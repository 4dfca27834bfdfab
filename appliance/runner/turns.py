"""Places that projects take in turn: whose last turn is longest ago is next, whatever number of theirs waits."""

from collections import Counter, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """`places` may be taken at once. Who comes while all are taken waits in line as an item, which `leave` names when it is its
    turn. A project that comes counts as one whose turn was just before the last that was given: it waits for no second turn of
    another's, and others don't wait for ever while projects keep coming.
    """

    def __init__(self, places: int) -> None:
        self.busy = 0
        self._places = places
        self._waiting: dict[str, deque[T]] = {}
        self._given = 0
        self._last: dict[str, float] = {}  # which turn a project had last, of those that have something here
        self._holding: Counter[str] = Counter()

    def take(self, project: str) -> bool:
        """Whether a place was free, and is now the project's."""
        if self.busy >= self._places or self._waiting:
            return False
        self.busy += 1
        self._give(project)
        return True

    def line_up(self, project: str, item: T) -> None:
        self._last.setdefault(project, self._given - 0.5)
        self._waiting.setdefault(project, deque()).append(item)

    def leave(self, project: str) -> T | None:
        """Gives a place back; returns the item that has it now."""
        self._holding[project] -= 1
        following = self._next()
        if following is None:
            self.busy -= 1
        self._forget(project)
        return following

    def leave_line(self, project: str, item: T) -> None:
        items = self._waiting[project]
        items.remove(item)
        if not items:
            del self._waiting[project]
        self._forget(project)

    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting_of(self, project: str) -> int:
        return len(self._waiting.get(project, ()))

    def _next(self) -> T | None:
        if not self._waiting:
            return None
        project = min(self._waiting, key=self._last.__getitem__)
        self._give(project)
        item = self._waiting[project][0]
        self.leave_line(project, item)
        return item

    def _give(self, project: str) -> None:
        self._given += 1
        self._last[project] = self._given
        self._holding[project] += 1

    def _forget(self, project: str) -> None:
        """A project that has nothing here any more."""
        if not self._holding[project]:
            del self._holding[project]
            if project not in self._waiting:
                self._last.pop(project, None)
