"""Which of the host's processors a run may use: as many as its share of them fills, so that Go, node and NumPy size themselves
by it: ceil(CPU limit / 100 %).

The kernel moves a process only among the processors that it may use. So a run is given those that the fewest other runs have.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

from appliance.runner.launch import kernelfiles


class Processors:
    def __init__(self, usable: Iterable[int]) -> None:
        self._runs = dict.fromkeys(sorted(usable), 0)  # by processor, in the order in which they are given

    def assign(self, cpu_percent: int) -> frozenset[int]:
        """To be given back by `release`; empty when the run may use all of them."""
        chosen = self.next(cpu_percent)
        for number in chosen:
            self._runs[number] = self._runs.pop(number) + 1  # to the end of the row: the next run begins with another
        return chosen

    def next(self, cpu_percent: int) -> frozenset[int]:
        """What `assign` would give now."""
        wanted = -(-cpu_percent // 100)
        if wanted >= len(self._runs):
            return frozenset()
        return frozenset(sorted(self._runs, key=lambda number: self._runs[number])[:wanted])

    def release(self, chosen: frozenset[int]) -> None:
        for number in chosen:
            self._runs[number] -= 1


def confine(process: int, chosen: frozenset[int]) -> None:
    """The process and its threads; what these start inherits it. No protection, but a measure for those who ask: nothing happens
    where it has ended.
    """
    with suppress(OSError):
        os.sched_setaffinity(process, chosen)  # its main thread first: those that it starts meanwhile are right already
        for thread in os.listdir(f"/proc/{process}/task"):
            if thread != str(process):
                os.sched_setaffinity(int(thread), chosen)


def child_of(process: int) -> int | None:
    """The first one: a guard's worker, a worker's program; None where there is none, or the kernel doesn't tell
    (CONFIG_PROC_CHILDREN)."""
    with suppress(OSError):
        for child in kernelfiles.read(f"/proc/{process}/task/{process}/children").split():
            return int(child)
    return None
