"""Two uids a slot, for the worker and the guard of one sandbox: nobody else on the host may have them."""

import os
from pathlib import Path
from typing import NamedTuple

SLOTS = 1024  # sandboxes at once, parked ones included


class UidsTaken(ValueError):
    """Some account or process has a uid of ours; the message says which, and what to do."""


class Slot(NamedTuple):
    worker: int
    guard: int


class Slots:
    """Free slots; one is given back when nothing of its uids lives any more. A dead pid namespace is the kernel's word for that."""

    def __init__(self, base: int) -> None:
        self._free = [Slot(base + 2 * index, base + 2 * index + 1) for index in reversed(range(SLOTS))]

    def take(self) -> Slot:
        return self._free.pop()

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot)


def refuse_taken(base: int) -> None:
    """Raises `UidsTaken` when passwd, group, subuid, subgid or a live process has a uid of the range."""
    ours = range(base, base + 2 * SLOTS)
    for path in ("/etc/passwd", "/etc/group"):
        for fields in _lines(path):
            if len(fields) > 2 and fields[2].isdigit() and int(fields[2]) in ours:
                raise UidsTaken(f"{path}: {fields[0]} has {fields[2]}: set SANDBOX_UID_BASE to a free range of {len(ours)}")
    for path in ("/etc/subuid", "/etc/subgid"):
        for fields in _lines(path):
            if len(fields) == 3 and _overlap(fields[1], fields[2], ours):
                raise UidsTaken(f"{path}: {fields[0]} has ids of ours: set SANDBOX_UID_BASE to a free range of {len(ours)}")
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (uid := _owner(entry)) is not None and uid in ours:
            raise UidsTaken(f"process {entry.name} has uid {uid}, one of ours: end it, or set SANDBOX_UID_BASE to a free range")


def _lines(path: str) -> list[list[str]]:
    try:
        return [line.split(":") for line in Path(path).read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []


def _overlap(start: str, count: str, ours: range) -> bool:
    if not (start.isdigit() and count.isdigit()):
        return False
    return int(start) < ours.stop and int(start) + int(count) > ours.start


def _owner(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_uid
    except FileNotFoundError:
        return None
