"""Two uids a slot, for the worker and the guard of one sandbox: nobody else on the host may have them; and its network namespace.

Several launchers may work on one host (`codeactions run` beside `serve`), each in a range of its own: from SANDBOX_UID_BASE
on the first that no other has, and where no sandbox is left. A range is taken by a lock of its byte in one file, which lasts as
long as the launcher. Where an account, or a process that is no sandbox, has one of its uids, there is no start.
"""

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

import trio

from appliance.errors import CannotStart
from appliance.runner.launch import owners
from appliance.runner.launch.network.slots import Places

SLOTS = 1024  # sandboxes at once, parked ones included
_RANGE = 2 * SLOTS
_MOST_LAUNCHERS = 64
_ENDING_SECONDS = 2.0
_LOOK_AGAIN_SECONDS = 0.05
_LOCKS = "/run/codeactions-uids.lock"  # root's: a lock that others could take would keep us from starting


class UidsTaken(CannotStart):
    """Some account or process has a uid of ours; the message says which, and what to do."""


class Slot(NamedTuple):
    worker: int
    guard: int


class Slots:
    """Free slots. One is given back when nothing of its uids lives any more: a dead pid namespace is the kernel's word for it."""

    def __init__(self, base: int) -> None:
        self._uids = range(base, base + _RANGE)
        self.places: Places | None = None  # of their networks, where this host has them
        self._free = [Slot(base + 2 * index, base + 2 * index + 1) for index in reversed(range(SLOTS))]

    @property
    def are_taken(self) -> bool:
        return not self._free

    def is_free(self, uid: int) -> bool:
        """Whether it is one of ours that nothing may have now."""
        first = uid - (uid - self._uids.start) % 2
        return uid in self._uids and Slot(first, first + 1) in self._free

    def take(self) -> Slot:
        return self._free.pop()

    async def network_of(self, slot: Slot) -> int | None:
        """A descriptor of its network namespace, which stays ours. Raises `NetworkFailed`."""
        return await self.places.of(self._index(slot)) if self.places else None

    async def give_back(self, slot: Slot) -> None:
        """Nothing of the run that had it is left in its network then."""
        if self.places:
            await self.places.clean(self._index(slot))
        self._free.append(slot)

    def _index(self, slot: Slot) -> int:
        return (slot.worker - self._uids.start) // 2


async def free_range(base: int) -> int:
    """The first uid of a range that is ours alone, until this process ends. Raises `UidsTaken`."""
    locks = os.open(_LOCKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    for first in range(base, base + _MOST_LAUNCHERS * _RANGE, _RANGE):
        ours = range(first, first + _RANGE)
        _refuse_accounts(ours)
        if not _lock(locks, first):
            continue  # another launcher's
        if not await _holds_sandboxes(ours):
            return first
        fcntl.lockf(locks, fcntl.LOCK_UN, 1, first)
    raise UidsTaken(f"processes have uids of ours from {base} on: end them, or set SANDBOX_UID_BASE to a free range")


async def _holds_sandboxes(ours: range) -> bool:
    """Whether sandboxes of a launcher that has gone live on. Raises `UidsTaken` when a process has one of the uids that is none,
    after a moment in which such a launcher's name server ends.
    """
    gives_up_at = trio.current_time() + _ENDING_SECONDS
    depth = owners.depth(owners.status(os.getpid()))
    while found := [status for pid in owners.pids() if _uid_of(status := owners.status(pid)) in ours]:
        strangers = [status for status in found if owners.depth(status) == depth]
        if not strangers:
            return True
        if trio.current_time() > gives_up_at:
            name, pid, uid = strangers[0]["Name"], strangers[0]["Pid"], _uid_of(strangers[0])
            raise UidsTaken(
                f"process {pid} ({name}) has the uid {uid}: end it, or set SANDBOX_UID_BASE to a free range of {len(ours)}"
            )
        await trio.sleep(_LOOK_AGAIN_SECONDS)
    return False


def _uid_of(status: dict[str, str]) -> int:
    """-1 of a process that has ended."""
    return -1 if status.get("State", "Z").startswith("Z") else int(status.get("Uid", "-1").split()[0])


def _lock(locks: int, first: int) -> bool:
    """The descriptor stays open: closing any of the file would give its locks back."""
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, first)
    except OSError:
        return False
    return True


def _refuse_accounts(ours: range) -> None:
    """Raises `UidsTaken` when passwd, group, subuid or subgid has an id of the range."""
    for path in ("/etc/passwd", "/etc/group"):
        for fields in _lines(path):
            if len(fields) > 2 and fields[2].isdigit() and int(fields[2]) in ours:
                raise UidsTaken(f"{path}: {fields[0]} has {fields[2]}: set SANDBOX_UID_BASE to a free range of {len(ours)}")
    for path in ("/etc/subuid", "/etc/subgid"):
        for fields in _lines(path):
            if len(fields) == 3 and _overlap(fields[1], fields[2], ours):
                raise UidsTaken(f"{path}: {fields[0]} has ids of ours: set SANDBOX_UID_BASE to a free range of {len(ours)}")


def _lines(path: str) -> list[list[str]]:
    try:
        return [line.split(":") for line in Path(path).read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []


def _overlap(start: str, count: str, ours: range) -> bool:
    if not (start.isdigit() and count.isdigit()):
        return False
    return int(start) < ours.stop and int(start) + int(count) > ours.start
