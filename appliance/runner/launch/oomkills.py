"""Whether the kernel has killed for memory lately, on all of the host: for a run whose own counter has gone with its guard."""

import math

import trio

from appliance.runner.launch import kernelfiles

_VMSTAT = "/proc/vmstat"
_KILLS = "oom_kill "
_LOOK_SECONDS = 1.0  # it takes the kernel a twentieth of a millisecond to make that file


class OomKills:
    """What it counts isn't ours alone, so it is asked only for a guard that was killed by none of us, and compared with what it
    was when a run last began: at most a second before that one did, and after whatever was told to be new."""

    def __init__(self) -> None:
        self._known = _kills()
        self._looked_at = trio.current_time()

    def look(self) -> None:
        """To be called when a run begins."""
        if trio.current_time() - self._looked_at >= _LOOK_SECONDS:
            self._known = _kills()
            self._looked_at = trio.current_time()

    def are_new(self) -> bool:
        before, self._known = self._known, _kills()
        if self._known == before:
            return False
        self._looked_at = -math.inf  # the kernel may kill another process of the same scope yet
        return True


def _kills() -> int:
    """0 where the kernel doesn't tell: before Linux 4.13."""
    for line in kernelfiles.read(_VMSTAT).splitlines():
        if line.startswith(_KILLS):
            return int(line.removeprefix(_KILLS))
    return 0
