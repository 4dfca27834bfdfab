"""The one place where processes are killed: by a descriptor, never by a number alone, and until the kernel has seen them go."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import structlog
import trio

from appliance.runner.launch import cgroups, kernelfiles

log = structlog.get_logger()

GONE_SECONDS = 5.0  # a killed process is gone in milliseconds; longer means one stuck in the kernel
_LOOK_AGAIN_SECONDS = 0.001


def kill(pidfd: int) -> None:
    """Harmless when it has ended, also where nobody keeps it as a zombie."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


async def end_process(pid: int) -> None:
    """Returns when it has ended, or when it hasn't for so long that the log says so.

    0 is, in a cgroup's list, a process outside our pid namespace: only cgroup.kill reaches it, and nothing tells when it is done.
    """
    if pid == 0:
        await trio.sleep(_LOOK_AGAIN_SECONDS)
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        kill(pidfd)
        with trio.move_on_after(GONE_SECONDS) as patience:
            await trio.lowlevel.wait_readable(pidfd)
        if patience.cancelled_caught:
            log.error("process does not end", pid=pid, seconds=GONE_SECONDS)
    finally:
        os.close(pidfd)


async def empty(folder: Path) -> None:
    """Until no process is in the cgroup, which costs one look when none is. What forks while it is killed is caught by the kernel
    (cgroup.kill, since Linux 5.14), else by freezing it first (cgroup.freeze, since 5.2), else by looking again.
    """
    deadline = trio.current_time() + GONE_SECONDS
    while pids := cgroups.pids_of(folder):
        if trio.current_time() >= deadline:
            log.error("cgroup is not empty", cgroup=folder.name, pids=list(pids), seconds=GONE_SECONDS)
            return
        is_frozen = not _wrote(folder / "cgroup.kill", "1") and _wrote(folder / "cgroup.freeze", "1")
        for pid in cgroups.pids_of(folder) if is_frozen else pids:
            await end_process(pid)
        if is_frozen:
            _wrote(folder / "cgroup.freeze", "0")


def _wrote(path: Path, text: str) -> bool:
    try:
        kernelfiles.write(path, text)
    except OSError:  # an older kernel has no such file, or the cgroup has gone
        return False
    return True
