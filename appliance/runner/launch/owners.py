"""Whose a sandbox is: a mark of its launcher, by which what was left behind is known when that has gone.

A mark says nothing of the host: a tenant sees it in the command line of his own processes.
"""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME = 19  # its place after the command's name, in proc_pid_stat(5)


def mark_of(pid: int) -> str | None:
    """None when there is no such process. A number that was used again has another start, and so another mark."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_TIME]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return sha256(f"{_BOOT_ID.read_text()} {pid} {started}".encode()).hexdigest()[:16]


def own_mark() -> str:
    mark = mark_of(os.getpid())
    assert mark is not None
    return mark


def living_marks() -> set[str]:
    """Of all processes that there are."""
    return {mark for pid in pids() if (mark := mark_of(pid)) is not None}


def pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def status(pid: int) -> dict[str, str]:
    """proc_pid_status(5); empty for one that has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def depth(status: dict[str, str]) -> int:
    """How many pid namespaces a process is in, of that of /proc and those below."""
    return len(status.get("NSpid", "").split())
